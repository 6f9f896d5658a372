"""Weights that aren't: odd shapes, types and values, and names made to be printed."""

import contextlib
import math

import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from tests.convert.torch_files import Named, tensor, write
from toklip_jax.cli.convert import main as convert
from toklip_jax.files import write_safetensors
from toklip_jax.files.shapes import MAX_LAYERS
from toklip_jax.models.registry import Hints, recognise
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights

FILES = ["toklip_tiny", "teacher_tiny", "vq_tiny"]
HINTS = Hints(num_heads=4, text_num_heads=4)


@pytest.fixture(scope="module", params=FILES)
def tensors(request, golden):
    return dict(read_checkpoint(golden(f"{request.param}/checkpoint.safetensors")).tensors)


@pytest.fixture(scope="module")
def vq(golden):
    path = golden("vq_tiny/checkpoint.safetensors")
    return {name: np.array(x) for name, x in read_checkpoint(path).tensors.items()}


def file_of(tensors, tmp_path):
    path = tmp_path / "odd.safetensors"
    write_safetensors(path, tensors)
    return path


def refused(path, out, capsys):
    """The one line that conversion ends with, and that `load` raises."""
    assert convert(["to-jax", str(path), str(out)]) == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert error.startswith("error: can't use")
    assert error.count("error: ") == 1
    with pytest.raises(ValueError, match=path.name) as caught:
        toklip_jax.load(path)
    assert str(caught.value) in error
    return error


def test_no_shape_is_used_before_it_is_checked(tensors):
    """Whatever one tensor's shape is, sizes come out, or a ValueError and no other error."""
    layers = {name for name in tensors if ".1." in name or ".2." in name}  # as those of 0
    for name in sorted(tensors.keys() - layers):
        array, odd = tensors[name], dict(tensors)
        for shape in ((), (0,) * array.ndim, (1, *array.shape), array.shape[1:], (7,)):
            odd[name] = np.broadcast_to(np.float32(0), shape)
            with contextlib.suppress(ValueError):
                recognise(odd).infer(HINTS)


def test_a_tensor_of_another_rank_is_named(vq, tmp_path, capsys):
    for number, (name, change) in enumerate(
        {
            "quantize.embedding.weight": lambda x: x.reshape(-1),
            "encoder.conv_in.bias": lambda x: x[0],
            "decoder.conv_out.weight": lambda x: x[None],
        }.items()
    ):
        path = file_of(vq | {name: np.array(change(vq[name]))}, tmp_path)
        assert name in refused(path, tmp_path / f"out{number}", capsys)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_numbers_that_are_not_finite_are_refused_by_name(vq, value, dtype, tmp_path, capsys):
    name = "decoder.conv_out.weight"
    odd = vq[name].astype(dtype)
    odd.reshape(-1)[-1] = value
    error = refused(file_of(vq | {name: odd}, tmp_path), tmp_path / "out", capsys)
    assert f"NaN or infinity in 1 tensors ({name})" in error


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_, np.int64])
def test_integers_are_refused_by_name(vq, dtype, tmp_path, capsys):
    name = "decoder.conv_out.weight"
    error = refused(file_of(vq | {name: vq[name].astype(dtype)}, tmp_path), tmp_path / "o", capsys)
    assert f"{name} is {np.dtype(dtype)}" in error


def test_numbers_too_large_for_float16_are_refused_by_name(vq, tmp_path):
    path = file_of(vq | {"decoder.conv_out.bias": vq["decoder.conv_out.bias"] + 1e6}, tmp_path)
    toklip_jax.load(path, param_dtype="bfloat16")
    with pytest.raises(ValueError, match="float16 can hold, got larger ones for decoder/conv_out"):
        toklip_jax.load(path, param_dtype="float16")


@pytest.mark.parametrize("number", ["99999999", "9" * 4000, "2"])
def test_layers_that_leave_a_gap_are_refused(vq, number, tmp_path, capsys):
    extra = {f"encoder.conv_blocks.0.res.{number}9.conv1.weight": np.zeros(1, np.float32)}
    error = refused(file_of(vq | extra, tmp_path), tmp_path / "out", capsys)
    assert max(map(len, error.split("\n"))) < 1000


def test_a_file_of_too_many_layers_is_refused_before_a_model_is_made(golden, tmp_path, capsys):
    path = golden("teacher_tiny/checkpoint.safetensors")
    one = np.zeros(1, np.float32)
    names = [f"visual.trunk.blocks.{i}.norm1.weight" for i in range(MAX_LAYERS + 1)]
    deep = file_of(dict.fromkeys(names, one) | dict(read_checkpoint(path).tensors), tmp_path)
    assert convert(["inspect", str(deep), "--num-heads=4", "--text-num-heads=4"]) == 2
    assert f"expected at most {MAX_LAYERS} layers" in capsys.readouterr().err


ATTACK = "\x1b]0;owned\x07\x1b[31m\u202ered\ud800" + "A" * 2000


def test_names_of_a_file_reach_no_terminal_as_they_are(vq, tmp_path, capsys):
    tree = {ATTACK: 1, "model": {ATTACK: tensor((6,)), "n": Named(f"argparse {ATTACK[-2000:]}")}}
    files = [
        file_of(vq | {ATTACK: np.zeros(1, np.float32)}, tmp_path),
        write(tmp_path / "alone.pt", tree),
    ]
    write_safetensors(tmp_path / "alone.safetensors", {ATTACK: np.zeros(1, np.float32)})
    for path in [*files, tmp_path / "alone.safetensors"]:
        for command in (["inspect"], ["to-jax"], ["verify"]):
            convert([*command, str(path), *[str(tmp_path / "out")] * (command != ["inspect"])])
            printed = "".join(capsys.readouterr())
            assert printed
            assert all(c.isprintable() or c == "\n" for c in printed)
            assert max(map(len, printed.split("\n"))) < 1000


def test_raw_weights_or_their_mean_are_chosen_by_every_door(vq, tmp_path, capsys, caplog):
    entries, storages = {"state_dict": {}, "state_dict_ema": {}}, {}
    for container, factor in (("state_dict", 2), ("state_dict_ema", 1)):
        for name, array in vq.items():
            key = str(len(storages))
            storages[key] = (array * np.float32(factor)).tobytes()
            entries[container][name] = tensor(array.shape, key=key, numel=math.prod(array.shape))
    path = write(tmp_path / "both.pt", entries, storages)
    codebook = vq["quantize.embedding.weight"]
    for is_ema, factor in ((None, 1), (True, 1), (False, 2)):
        caplog.clear()
        got = read_weights(path, is_ema=is_ema).params["codebook"]
        np.testing.assert_array_equal(got, factor * codebook)
        assert ("took the running mean in state_dict_ema" in caplog.text) == (is_ema is None)
    for flags, said in (
        ([], "mean in state_dict_ema; --weights=raw"),
        (["--weights=raw"], "those in state_dict"),
    ):
        assert convert(["inspect", str(path), *flags]) == 0
        assert said in capsys.readouterr().out
    got = toklip_jax.load(path, is_ema=False).params["codebook"]
    np.testing.assert_array_equal(got, 2 * codebook)
