"""A parameter whose entries along the first axis are tensors of their own in PyTorch."""

import numpy as np
import pytest

from toklip_jax.files.rules import Rule, reverse_names, to_jax, to_torch

RULES = [
    Rule("books.{i}.weight", "vq/codebook[{i}]", "z c -> c z"),
    Rule("books.{i}.usage", None, reason="a counter"),
    Rule("scale", "vq/scale"),
]
COUNT = 11  # so that 10 comes before 2 in the order of names
SHAPES = {"vq/codebook": (COUNT, 3, 4), "vq/scale": (2,)}


@pytest.fixture
def tensors():
    random = np.random.default_rng(0)
    names = sorted(f"books.{i}.weight" for i in range(COUNT))
    books = {name: random.normal(size=(4, 3)).astype(np.float16) for name in names}
    return {"scale": np.ones(2, np.float32), "books.3.usage": np.zeros(4)} | books


def test_entries_are_stacked_in_their_order_and_come_back_bit_equal(tensors):
    params, carried = to_jax(tensors, RULES, SHAPES)
    codebook = np.asarray(params["vq/codebook"])
    assert (codebook.shape, codebook.dtype) == ((COUNT, 3, 4), np.float16)
    for i in range(COUNT):
        np.testing.assert_array_equal(codebook[i], tensors[f"books.{i}.weight"].T)
    assert set(carried) == {"books.3.usage"}
    back = to_torch(params, RULES, carried)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        array = np.asarray(back[name])
        assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape)
        assert array.tobytes() == tensor.tobytes()


def test_each_entry_has_its_name():
    names = reverse_names(RULES, SHAPES)
    assert names == {f"books.{i}.weight": f"vq/codebook[{i}]" for i in range(COUNT)} | {
        "scale": "vq/scale"
    }


def test_faults_name_the_entry(tensors):
    del tensors["books.10.weight"]
    tensors["books.2.weight"] = np.zeros((4, 5), np.float16)
    tensors["books.11.weight"] = np.zeros((4, 3), np.float16)
    with pytest.raises(ValueError, match="3 keys don't fit") as error:
        to_jax(tensors, RULES, SHAPES)
    for part in (
        "missing: books.10.weight (3, 4)",
        "misshaped: books.2.weight is (4, 5), expected (4, 3)",
        "unknown: books.11.weight (4, 3)",
    ):
        assert part in str(error.value)


def test_entries_of_several_types_are_refused_as_stacking_would_change_them(tensors):
    tensors["books.2.weight"] = tensors["books.2.weight"].astype(np.float32)
    with pytest.raises(ValueError, match=r"of several types: the entries of vq/codebook are \["):
        to_jax(tensors, RULES, SHAPES)
