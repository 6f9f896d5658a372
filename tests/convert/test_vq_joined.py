"""TokLIP and its VQ tokenizer in two files, and tokenizers that TokLIP's file can't hold."""

import dataclasses

import flax.traverse_util
import numpy as np
import pytest

import toklip_jax
from tests.convert import torch_files
from tests.convert.vq_files import (
    XL,
    XL_HEADS,
    convert,
    hash_of,
    heads,
    same_params,
    tensors_of,
    write,
)
from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.registry import param_shapes
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.read import read_weights
from toklip_jax.weights.vq_part import expect_joined


@pytest.fixture
def apart(golden, tmp_path):
    """TokLIP-XL without its VQ tokenizer, and that in a file of its own."""
    tensors, vq = tensors_of(golden(XL)), "visual.trunk.vq."
    rest = {name: x for name, x in tensors.items() if not name.startswith(vq)}
    own = {n.removeprefix(vq): x for n, x in tensors.items() if n.startswith(vq)}
    return (
        write(tmp_path / "toklip.safetensors", rest),
        torch_files.save(tmp_path / "ibq.ckpt", {"state_dict": own}),
    )


def test_a_vq_in_a_file_of_its_own_is_joined(apart, golden, tmp_path, capsys):
    toklip, vq = apart
    assert convert("to-jax", toklip, tmp_path / "jax", *XL_HEADS) == 2
    assert "convert to-jax FILE OUT --vq=VQ_FILE` joins the two" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected TokLIP's VQ tokenizer among the tensors"):
        toklip_jax.load(toklip, **heads())
    assert convert("to-jax", toklip, tmp_path / "jax", *XL_HEADS, f"--vq={vq}") == 0
    printed = capsys.readouterr().out
    assert "the raw weights, not their running mean in model_ema" in printed  # as TokLIP ran
    assert "--weights=ema takes the mean" in printed
    assert f"{vq.name}" in read_weights(tmp_path / "jax").source
    joined, whole = read_weights(tmp_path / "jax"), read_weights(golden(XL), **heads())
    assert joined.config == whole.config
    same_params(joined.params, whole.params)
    assert convert("verify", toklip, tmp_path / "jax", f"--vq={vq}") == 0
    assert convert("inspect", toklip, *XL_HEADS, f"--vq={vq}") == 0
    assert hash_of(tmp_path / "jax", capsys) == hash_of(golden(XL), capsys, *XL_HEADS)
    flags = (f"--vq={vq}", "--weights=ema")
    assert convert("to-jax", toklip, tmp_path / "mean", *XL_HEADS, *flags) == 0
    mean = hash_of(golden(XL), capsys, *XL_HEADS, "--weights=ema")
    assert hash_of(tmp_path / "mean", capsys) == mean


def test_a_converted_vq_is_joined_and_a_second_one_refused(apart, golden, tmp_path, capsys):
    toklip, vq = apart
    assert convert("to-jax", vq, tmp_path / "vq", "--weights=raw") == 0
    assert convert("to-jax", toklip, tmp_path / "jax", *XL_HEADS, f"--vq={tmp_path / 'vq'}") == 0
    joined, whole = read_weights(tmp_path / "jax"), read_weights(golden(XL), **heads())
    assert joined.config == whole.config
    same_params(joined.params, whole.params)
    capsys.readouterr()
    out = tmp_path / "out"
    assert convert("to-jax", golden(XL), out, *XL_HEADS, f"--vq={vq}") == 2
    assert "expected a TokLIP without its VQ tokenizer" in capsys.readouterr().err
    teacher = golden("teacher_tiny/checkpoint.safetensors")
    assert convert("to-jax", toklip, out, *XL_HEADS, f"--vq={teacher}") == 2
    assert "expected a VQ tokenizer to join, got" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["ibq_tiny", "teacher_tiny"])
def test_a_vq_is_joined_to_nothing_but_toklip(name, golden, tmp_path, capsys):
    path, out = golden(f"{name}/checkpoint.safetensors"), tmp_path / "out"
    vq = golden("ibq_tiny/checkpoint.safetensors")
    assert convert("to-jax", path, out, f"--vq={vq}") == 2
    error = capsys.readouterr().err
    assert "expected weights of TokLIP to join a VQ tokenizer to, got those of" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_llamagens_raw_rows_stay_raw_where_they_are_joined(golden, tmp_path):
    tensors, vq = tensors_of(golden("toklip_tiny/checkpoint.pt")), "visual.trunk.vq."
    parts = ({}, {})
    for name, x in tensors.items():
        parts[name.startswith(vq)][name.removeprefix(vq)] = x
    rest, own = (write(tmp_path / f"{i}.safetensors", part) for i, part in enumerate(parts))
    assert convert("to-jax", own, tmp_path / "vq", "--no-l2") == 0
    for name, flags in {"file": (own, "--no-l2"), "directory": (tmp_path / "vq",)}.items():
        path, *rest_of = flags
        assert convert("to-jax", rest, tmp_path / name, f"--vq={path}", *rest_of) == 0
        assert not read_weights(tmp_path / name).config.vq.is_l2_normalised


def test_a_vq_whose_config_its_names_do_not_tell_is_not_joined(golden, tmp_path):
    """UniTok's causal projections: within TokLIP they would be read as those that see all."""
    unitok = golden("unitok_tiny/checkpoint.safetensors")
    vq, heads = tmp_path / "vq", "--num-heads=4"
    assert convert("to-jax", unitok, vq, heads, "--causal") == 0
    config = read_weights(vq).config
    assert config.is_causal
    with pytest.raises(ValueError, match="got is_causal=True, which would be read as another one"):
        expect_joined(_toklip_on(dataclasses.replace(config, is_causal=False)), config)
    expect_joined(_toklip_on(config), config)


def _toklip_on(vq):
    config = dataclasses.replace(TOKLIP["tiny"], vq=vq)
    return Weights(config, {}, is_scanned=False)


def test_files_that_do_not_tell_causal_projections_are_read_with_a_warning(golden, caplog):
    path = golden("unitok_tiny/checkpoint.safetensors")
    assert not read_weights(path, num_heads=4).config.is_causal
    assert "is_causal=True, or `convert to-jax --causal`, says" in caplog.text
    caplog.clear()
    for is_causal in (True, False):
        config = read_weights(path, num_heads=4, is_causal=is_causal).config
        assert config.is_causal == is_causal
    assert caplog.text == ""


def test_toklip_on_a_tokenizer_without_names_in_pytorch_is_one_clear_error(
    golden, tmp_path, capsys
):
    vq = ConvVQConfig(channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=16)
    flat = {path: np.zeros(shape, np.float32) for path, shape in param_shapes(vq).items()}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    save_weights(tmp_path / "vq", Weights(vq, params, is_scanned=False))
    teacher = golden("teacher_tiny/checkpoint.safetensors")
    assert convert("start", teacher, tmp_path / "vq", tmp_path / "toklip") == 0
    capsys.readouterr()
    assert convert("to-torch", tmp_path / "toklip", tmp_path / "back.safetensors") == 2
    error = capsys.readouterr().err
    assert "expected a family with PyTorch files, got the convolutional tokenizer" in error
    assert not (tmp_path / "back.safetensors").exists()
