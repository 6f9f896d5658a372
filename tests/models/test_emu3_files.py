"""Emu3's files: the authors' names and Hugging Face's, read, written back, and told from others."""

import functools
import json

import flax.traverse_util
import numpy as np
import pytest

from tests.models.foreign_files import published, same_bits, written
from toklip_jax.cli.convert import main as convert
from toklip_jax.files.rules import match, reverse_names, torch_shape
from toklip_jax.models.base import Hints, find_family
from toklip_jax.models.emu3.sizes import SIZES
from toklip_jax.models.registry import count_params, param_shapes, recognise
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.read import how_to_get, read_weights

RECORDING = "emu3_tiny"
flat = functools.partial(flax.traverse_util.flatten_dict, sep="/")


def originals(golden):
    """The recorded checkpoint's tensors under the names and in the shapes of the authors' files."""
    tensors = read_checkpoint(golden("emu3_tiny/checkpoint.safetensors")).tensors
    names = json.loads(golden("emu3_tiny/rename_from_original.json").read_text())
    arrays = {name: np.array(tensors[theirs]) for name, (theirs, *_) in names.items()}
    assert sorted(theirs for theirs, *_ in names.values()) == sorted(tensors)
    linear = [n for n, x in arrays.items() if x.ndim == 2 and n != "quantize.embedding.weight"]
    assert len(linear) == 28  # attention's projections, 1x1 convolutions in the original
    return arrays | {name: arrays[name][..., None, None] for name in linear}


def test_both_packages_names_give_the_same_weights_and_go_back_bit_for_bit(
    weights, golden, tmp_path
):
    want = originals(golden)
    same_bits(export_tensors(weights), want)
    again = read_weights(written(tmp_path, want))
    assert again.config == weights.config
    same_bits(flat(again.params), flat(weights.params))
    same_bits(export_tensors(again), want)
    counters = [name for name in want if name.endswith("num_batches_tracked")]
    assert set(weights.carried) == set(counters)
    assert {want[name].dtype for name in counters} == {np.dtype("int64")}


def test_the_command_converts_verifies_and_writes_back(golden, tmp_path, capsys):
    path, jax_dir = golden("emu3_tiny/checkpoint.safetensors"), tmp_path / "jax"
    assert convert(["inspect", str(path)]) == 0
    assert "Emu3's vision tokenizer, in Hugging Face's names" in capsys.readouterr().out
    assert convert(["to-jax", str(path), str(jax_dir)]) == 0
    assert convert(["verify", str(path), str(jax_dir)]) == 0
    back = tmp_path / "back.safetensors"
    assert convert(["to-torch", str(jax_dir), str(back)]) == 0
    same_bits(read_checkpoint(back).tensors, originals(golden))
    assert convert(["verify", str(back), str(jax_dir)]) == 0


def test_at_the_published_size_no_key_is_left_on_either_side(golden):
    tensors = published(golden, "emu3_visiontokenizer_original_names")
    family = find_family(tensors)
    config = family.keys.infer(tensors, Hints(), "")
    assert (family.name, config) == ("emu3", SIZES["emu3"])
    rules, shapes = family.keys.rules(config, "", ""), param_shapes(config)
    names = reverse_names(rules, shapes)
    carried = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert set(names) | carried == set(tensors)
    assert len(names) == len(shapes)
    for name, path in names.items():
        assert torch_shape(match(name, rules)[0].pattern, shapes[path]) == tensors[name].shape, name
    sizes = [tensor.size for name, tensor in tensors.items() if name not in carried]
    assert count_params(config) == sum(sizes)


def test_every_name_of_hugging_face_becomes_the_originals(golden):
    theirs = published(golden, "emu3_vqvae_default", is_numbered=True)
    ours = published(golden, "emu3_visiontokenizer_original_names", is_numbered=True)
    found = recognise(theirs)
    assert (found.family.name, found.names) == ("emu3", "Hugging Face's names")
    assert found.infer(Hints()) == SIZES["emu3"]
    assert {n: x.shape for n, x in found.tensors.items()} == {n: x.shape for n, x in ours.items()}
    names = json.loads(golden("full_keys/emu3_original_to_hf.json").read_text())
    for name, source in names.items():
        assert found.tensors[name].flat[0] == theirs[source].flat[0], name


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("ibq_262144_f16", "ibq"),
        ("taming_imagenet_f16_16384", "taming"),
        ("chameleon_7b_vqmodel", "chameleon"),
    ],
)
def test_other_families_files_are_not_taken_for_emu3s(name, family, golden):
    tensors = published(golden, name)
    assert recognise(tensors).family.name == family
    with pytest.raises(ValueError, match="expected weights of Emu3's vision tokenizer, got"):
        recognise(tensors, "emu3")


@pytest.mark.parametrize("family", ["taming", "ibq", "chameleon", "llamagen"])
def test_emu3s_file_is_refused_as_another_familys(family, golden, tmp_path):
    with pytest.raises(ValueError, match="expected weights of"):
        read_weights(golden("emu3_tiny/checkpoint.safetensors"), family=family)
    path = written(tmp_path, originals(golden))
    with pytest.raises(ValueError, match=r"keys don't fit|expected"):
        read_weights(path, family=family)


def test_a_part_that_is_missing_or_damaged_is_named(golden, tmp_path):
    tensors = originals(golden)
    variance = tensors.pop("encoder.time_res_stack.1.norm2.running_var")
    tensors["decoder.mid.attn_1.norm.conv_b.weight"] = variance
    path = written(tmp_path, tensors)
    with pytest.raises(ValueError, match="2 keys don't fit") as error:
        read_weights(path)
    assert "missing: encoder.time_res_stack.1.norm2.running_var" in str(error.value)
    assert "misshaped: decoder.mid.attn_1.norm.conv_b.weight is (4,)" in str(error.value)


def test_the_advice_on_missing_weights_says_where_they_are():
    parts = how_to_get("vq").split("; ")
    assert all(parts)  # families without advice leave no gap
    assert any("fetch BAAI/Emu3-VisionTokenizer from huggingface.co" in part for part in parts)
