"""Files of VQ tokenizers, alone and within larger models: recognised, mapped, and told apart."""

import dataclasses
import json
import re

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
    noisy,
    same_params,
    tensors_of,
    write,
)
from toklip_jax.files.rules import match, reverse_names, to_jax, torch_shape
from toklip_jax.models.base import Hints
from toklip_jax.models.chameleon.sizes import SIZES as CHAMELEON
from toklip_jax.models.ibq.sizes import SIZES as IBQ
from toklip_jax.models.llamagen.sizes import SIZES as LLAMAGEN
from toklip_jax.models.registry import count_params, param_shapes, recognise
from toklip_jax.models.taming.sizes import SIZES as TAMING
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP
from toklip_jax.weights.read import read_weights

FIXTURES = {
    "taming": "taming_tiny/checkpoint.safetensors",
    "ibq": "ibq_tiny/checkpoint.safetensors",
    "chameleon": "chameleon_tiny/checkpoint.safetensors",
    "janus": "janus_tiny/checkpoint.safetensors",
    "llamagen": "vq_tiny_8/checkpoint.safetensors",
    "emu3": "emu3_tiny/checkpoint.safetensors",
}
# Real key lists: the family that has them, and the named size; a running mean is not asked for.
LISTS = {
    "ibq_262144_f16": ("ibq", IBQ["ibq_262144"]),
    "taming_imagenet_f16_16384": ("taming", TAMING["taming_f16_16384"]),
    "taming_openimage_f8_16384": ("taming", TAMING["taming_f8_16384"]),
    "chameleon_7b_vqmodel": (
        "chameleon",
        dataclasses.replace(CHAMELEON["chameleon"], has_decoder=False),
    ),
    "janus_pro_vqmodel": ("llamagen", LLAMAGEN["vq_16"]),
    "toklip_xl_512": ("toklip", TOKLIP["toklip_xl_512"]),
}


def listed(golden, name):
    """Arrays of the real names, shapes and types that take no memory."""
    keys = json.loads(golden(f"full_keys/{name}.json").read_text())
    return {k: np.broadcast_to(np.zeros((), dtype), shape) for k, (shape, dtype) in keys.items()}


@pytest.mark.parametrize("name", LISTS)
def test_no_real_key_is_left_on_either_side(name, golden):
    family, size = LISTS[name]
    tensors = listed(golden, name)
    recognised = recognise(tensors)
    assert (recognised.family.name, recognised.dropped) == (family, {})
    config = recognised.infer(Hints())
    assert config == size
    shapes, rules = param_shapes(config), recognised.family.keys.rules(config, "", "")
    params, carried = to_jax(recognised.tensors, rules, shapes)  # raises for what doesn't fit
    assert params.keys() == shapes.keys()
    names = reverse_names(rules, shapes)
    assert set(names) | set(carried) == set(recognised.tensors)
    for torch_name, path in names.items():
        pattern = match(torch_name, rules)[0].pattern
        assert torch_shape(pattern, shapes[path]) == recognised.tensors[torch_name].shape


def test_toklip_xl_carries_the_running_mean_of_its_vq_and_does_without(golden):
    tensors = listed(golden, "toklip_xl_512")
    summary = json.loads(golden("full_keys/toklip_xl_512_summary.json").read_text())
    config = TOKLIP["toklip_xl_512"]
    assert count_params(config) == summary["total_parameters"]
    assert count_params(config.vq) == summary["vq_own"][1]
    recognised = recognise(tensors)
    rules, shapes = recognised.family.keys.rules(config, "", ""), param_shapes(config)
    _, carried = to_jax(tensors, rules, shapes)
    assert all(name.startswith("visual.trunk.vq.model_ema.") for name in carried)
    assert len(carried) == summary["vq_model_ema"][0]
    assert {match(name, rules)[0].reason for name in carried} == {
        "IBQ's own running mean of its weights, which the model around it doesn't run"
    }
    without = {name: x for name, x in tensors.items() if ".model_ema." not in name}
    assert recognise(without).infer(Hints()) == config
    assert to_jax(without, rules, shapes)[1] == {}


def test_every_name_of_hugging_faces_janus_becomes_llamagens(golden):
    renamed = json.loads(golden("full_keys/janus_to_llamagen_16384.json").read_text())
    tensors = listed(golden, "janus_pro_vqmodel")
    got = recognise(tensors)
    assert {name: id(x) for name, x in got.tensors.items()} == {
        renamed[name]: id(x) for name, x in tensors.items()
    }
    assert got.names == "Hugging Face's Janus names"


def test_deepseeks_janus_has_llamagens_names_within_it(golden):
    """344 of them: those that Hugging Face renamed, and a counter."""
    renamed = json.loads(golden("full_keys/janus_to_llamagen_16384.json").read_text())
    own = {renamed[name]: x for name, x in listed(golden, "janus_pro_vqmodel").items()}
    own["quantize.codebook_used"] = np.broadcast_to(np.float32(0), (65_536,))
    assert len(own) == 344
    got = recognise(AROUND | {f"gen_vision_model.{name}": x for name, x in own.items()})
    config = got.infer(Hints())
    assert config == LLAMAGEN["vq_16"]
    assert got.tensors == own
    assert got.dropped.keys() == AROUND.keys()
    rules = got.family.keys.rules(config, "", "")
    params, carried = to_jax(got.tensors, rules, param_shapes(config))
    assert (len(params), set(carried)) == (343, {"quantize.codebook_used"})


@pytest.mark.parametrize("name", ["taming", "ibq", "chameleon"])
def test_conversion_and_back_is_bit_exact(name, golden, tmp_path, capsys):
    source = golden(FIXTURES[name])
    assert convert("to-jax", source, tmp_path / "jax") == 0
    assert read_weights(tmp_path / "jax").config == read_weights(source).config
    assert convert("to-torch", tmp_path / "jax", tmp_path / "back.safetensors") == 0
    want, got = tensors_of(source), tensors_of(tmp_path / "back.safetensors")
    same_tensors(got, want)
    assert convert("verify", source, tmp_path / "jax") == 0
    assert f"bit-exact: {len(want)} tensors" in capsys.readouterr().out


def same_tensors(got, want):
    assert got.keys() == want.keys()
    for name, x in want.items():
        shape = () if "logit_" in name else x.shape  # as the original has it: here it has one axis
        assert (got[name].dtype, got[name].shape) == (x.dtype, shape), name
        assert got[name].tobytes() == x.tobytes(), name


def test_janus_comes_back_in_llamagens_names(golden, tmp_path):
    source = golden(FIXTURES["janus"])
    renamed = json.loads(golden("janus_tiny/rename_to_llamagen.json").read_text())
    want = {renamed[name]: x for name, x in tensors_of(source).items()}
    assert convert("to-jax", source, tmp_path / "jax") == 0
    assert convert("verify", source, tmp_path / "jax") == 0
    assert convert("to-torch", tmp_path / "jax", tmp_path / "back.safetensors") == 0
    same_tensors(tensors_of(tmp_path / "back.safetensors"), want)


def xl_files(golden, tmp_path):
    """The recorded TokLIP-XL as users meet it, and what must come back of each."""
    whole = tensors_of(golden(XL))
    without = {name: x for name, x in whole.items() if ".model_ema." not in name}
    prefixed = {f"module.{name}": x for name, x in whole.items()}
    return {
        "with its running mean": (write(tmp_path / "with.safetensors", whole), whole),
        "without it": (write(tmp_path / "without.safetensors", without), without),
        "as its trainer saves it": (
            torch_files.save(tmp_path / "a.pt", {"epoch": 1, "state_dict": prefixed}),
            whole,
        ),
    }


@pytest.mark.parametrize("kind", ["with its running mean", "without it", "as its trainer saves it"])
def test_toklip_xl_converts_both_ways(kind, golden, tmp_path, capsys, caplog):
    path, want = xl_files(golden, tmp_path)[kind]
    assert convert("to-jax", path, tmp_path / "jax", *XL_HEADS) == 0
    printed = capsys.readouterr().out
    has_mean = kind != "without it"
    assert ("the raw weights of visual.trunk.vq, which the model around it" in printed) == has_mean
    assert ("; --weights=ema takes the mean" in printed) == has_mean
    count = sum(".model_ema." in name for name in want)
    assert (f"kept, to be written back: {count:,} tensors" in printed) == has_mean
    assert read_weights(tmp_path / "jax").config.vq == read_weights(path, **heads()).config.vq
    # Two residual blocks could be taming's too; the running mean tells IBQ's.
    assert ("took the VQ tokenizer within these weights for IBQ's" in caplog.text) != has_mean
    assert convert("to-torch", tmp_path / "jax", tmp_path / "back.safetensors") == 0
    same_tensors(tensors_of(tmp_path / "back.safetensors"), want)
    assert convert("verify", path, tmp_path / "jax") == 0
    assert convert("inspect", path, *XL_HEADS) == 0
    printed = capsys.readouterr().out
    assert "VQ tokenizer: IBQ's tokenizer" in printed
    assert f"VQ hash: {hash_of(tmp_path / 'jax', capsys)}" in printed


def test_the_mean_within_toklip_xl_is_taken_if_asked_for(golden, tmp_path, capsys):
    source, whole = golden(XL), tensors_of(golden(XL))
    flags = ("--weights=ema",)
    assert convert("to-jax", source, tmp_path / "jax", *XL_HEADS, *flags) == 0
    assert "the running mean in visual.trunk.vq.model_ema" in capsys.readouterr().out
    assert convert("verify", source, tmp_path / "jax", *flags) == 0
    assert convert("verify", source, tmp_path / "jax") == 2
    assert convert("to-torch", tmp_path / "jax", tmp_path / "back.safetensors") == 0
    got, vq = tensors_of(tmp_path / "back.safetensors"), "visual.trunk.vq."
    own = [n for n in whole if n.startswith(vq) and "model_ema" not in n]
    for name in own:
        copy = f"{vq}model_ema.{name.removeprefix(vq).replace('.', '')}"
        np.testing.assert_array_equal(got[name], whole[copy], err_msg=name)


PLACES = {
    "janus": ("gen_vision_model.", "model.vqmodel."),
    "llamagen": ("gen_vision_model.", "model.vqmodel."),
    "chameleon": ("model.vqmodel.",),
    "emu3": ("model.vqmodel.",),
}
AROUND = {
    "model.language_model.layers.0.self_attn.q_proj.weight": np.ones((4, 4), np.float16),
    "language_model.model.embed_tokens.weight": np.ones((8, 4), np.float16),
    # The understanding tower of Janus, in the names of a model that is known alone.
    "model.vision_model.embeddings.patch_embedding.weight": np.ones((4, 3, 2, 2), np.float16),
    "model.vision_model.encoder.layers.0.self_attn.q_proj.weight": np.ones((4, 4), np.float16),
}


@pytest.mark.parametrize(("name", "prefix"), [(n, p) for n, ps in PLACES.items() for p in ps])
def test_a_tokenizer_is_found_within_a_larger_model(name, prefix, golden, tmp_path, capsys):
    alone = golden(FIXTURES[name])
    tensors = {f"{prefix}{n}": x for n, x in tensors_of(alone).items()}
    path = write(tmp_path / "model.safetensors", AROUND | tensors)
    got, want = read_weights(path), read_weights(alone)
    assert got.config == want.config
    same_params(got.params, want.params)
    assert got.dropped.keys() == AROUND.keys()
    assert convert("to-jax", path, tmp_path / "jax") == 0
    printed = capsys.readouterr().out
    assert "ignored: language_model.model.embed_tokens.weight: a part of the model" in printed
    assert convert("verify", path, tmp_path / "jax") == 0
    assert convert("inspect", path) == 0
    assert f"within another model ({prefix}*)" in capsys.readouterr().out


MISTAKEN = [
    ("ibq", "llamagen", "expected weights of LlamaGen's VQ tokenizer, got those of IBQ's"),
    ("taming", "llamagen", "expected weights of LlamaGen's VQ tokenizer, got those of taming-"),
    ("llamagen", "ibq", "expected weights of IBQ's tokenizer, got those of Llama"),
    ("llamagen", "taming", "expected weights of taming-transformers' VQGAN, got those of Llama"),
    ("janus", "taming", "expected decoder.up.0 to have the highest resolution"),
    ("janus", "chameleon", "expected decoder.up.0 to have the highest resolution"),
    ("ibq", "ibqq", "did you mean 'ibq'"),
    ("taming", "chameleon", "unknown: encoder.down.4.attn.0"),
]


@pytest.mark.parametrize(("file", "family", "message"), MISTAKEN)
def test_a_file_of_another_family_is_one_clear_error(
    file, family, message, golden, tmp_path, capsys
):
    path = golden(FIXTURES[file])
    with pytest.raises(ValueError, match=re.escape(message)):
        read_weights(path, family=family)
    assert convert("to-jax", path, tmp_path / "jax", f"--family={family}") == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert f"can't use {path}" in error
    assert not (tmp_path / "jax").exists()


def test_toklip_with_another_vq_than_was_said_is_one_clear_error(golden):
    with pytest.raises(ValueError, match="expected weights of IBQ's tokenizer, got tensors called"):
        read_weights(golden("toklip_tiny/checkpoint.pt"), family="ibq")
    with pytest.raises(ValueError, match="expected weights of LlamaGen's VQ tokenizer, got tensor"):
        read_weights(golden(XL), **heads(), family="llamagen")
    with pytest.raises(ValueError, match="expected no is_l2_normalised with weights of IBQ's"):
        read_weights(golden(XL), **heads(), is_l2_normalised=False)


def test_seventeen_shared_names_do_not_make_one_tokenizer_another(golden, tmp_path):
    """Loading by shape would fill LlamaGen's ends with IBQ's, and say nothing."""
    ours = tensors_of(golden("toklip_tiny/checkpoint.pt"))
    theirs = tensors_of(golden(XL))
    shared = {n for n in ours.keys() & theirs if n.startswith("visual.trunk.vq.")}
    assert len(shared) == 17
    mixed = ours | {name: theirs[name] for name in shared}
    path = write(tmp_path / "mixed.safetensors", mixed)
    with pytest.raises(ValueError, match=r"misshaped: visual\.trunk\.vq_table\.weight"):
        read_weights(path)


def test_the_family_decides_between_those_of_the_same_names(golden, tmp_path, capsys, caplog):
    path = golden(FIXTURES["taming"])
    assert read_weights(path).config == read_weights(path, family="taming").config
    assert "others have the same names, and other ids" in caplog.text
    caplog.clear()
    for family in ("taming", "ibq"):
        assert convert("to-jax", path, tmp_path / family, f"--family={family}") == 0
        assert convert("inspect", path, f"--family={family}") == 0
        loaded = toklip_jax.load(tmp_path / family)
        assert repr(loaded).startswith(f"VQTokenizer({family}")
    assert "others have the same names" not in caplog.text


def test_the_hash_is_that_of_the_weights_whatever_file_they_are_in(golden, tmp_path, capsys):
    tensors = tensors_of(golden(XL))
    vq = "visual.trunk.vq."
    own = {n.removeprefix(vq): x for n, x in tensors.items() if n.startswith(vq)}
    own = {name: x for name, x in own.items() if not name.startswith("model_ema.")}
    single = {name: x.astype(np.float32) for name, x in own.items()}
    files = {
        "a.safetensors": write(tmp_path / "a.safetensors", own),
        "b.ckpt": torch_files.save(tmp_path / "b.ckpt", {"state_dict": own, "epoch": 1}),
        "c.safetensors": write(tmp_path / "c.safetensors", single),
    }
    family = "--family=ibq"
    hashes = {hash_of(path, capsys, family) for path in files.values()}
    assert convert("to-jax", files["a.safetensors"], tmp_path / "alone", family) == 0
    assert convert("to-jax", golden(XL), tmp_path / "toklip", *XL_HEADS, "--layout=scanned") == 0
    hashes |= {hash_of(tmp_path / name, capsys) for name in ("alone", "toklip")}
    hashes.add(hash_of(golden(XL), capsys, *XL_HEADS))
    assert len(hashes) == 1
    mean = hash_of(golden(XL), capsys, *XL_HEADS, "--weights=ema")
    other = hash_of(write(tmp_path / "d.safetensors", noisy(own)), capsys, family)
    assert len(hashes | {mean, other}) == 3


def test_inspect_tells_codes_grid_rate_and_licence(golden, capsys):
    assert convert("inspect", golden(FIXTURES["ibq"])) == 0
    printed = capsys.readouterr().out
    for line in (
        "family: IBQ's tokenizer",
        "codes: 512, of 32 numbers",
        "grid: 16 x 16, of images of 256 x 256 px",
        "rate: 0.03516 bits a pixel, 2,304 bits an image",
        "licence of the published weights: Apache-2.0",
    ):
        assert line in printed.splitlines()
    assert convert("inspect", golden(FIXTURES["chameleon"])) == 0
    printed = capsys.readouterr().out
    assert "grid: 32 x 32, of images of 512 x 512 px" in printed
    assert "licence of the published weights: Chameleon Research License" in printed
    assert convert("inspect", golden(FIXTURES["taming"]), "--family=taming") == 0
    assert "licence of the published weights: not stated with them" in capsys.readouterr().out
    assert convert("inspect", golden(XL), *XL_HEADS) == 0
    assert "grid: 4 x 4, of images of 64 x 64 px" in capsys.readouterr().out
    assert convert("inspect", golden("teacher_tiny/checkpoint.safetensors")) == 0
    assert "VQ" not in capsys.readouterr().out


@pytest.mark.parametrize("name", FIXTURES)
def test_toklip_starts_on_any_tokenizer(name, golden, tmp_path):
    """With the grid that the tokenizer gives the teacher's images: LlamaGen's here is finer."""
    teacher, vq = golden("teacher_tiny/checkpoint.safetensors"), golden(FIXTURES[name])
    family = {"janus": "llamagen"}.get(name, name)
    out = tmp_path / "start"
    assert convert("start", teacher, vq, out, f"--family={family}") == 0
    started, alone = read_weights(out), read_weights(vq, family=family)
    assert started.config.vq == alone.config
    grid = alone.config.grid_of(64, 64)
    assert grid == ((8, 8) if name in ("llamagen", "emu3") else (4, 4))
    assert started.config.vision.grid == grid
    assert len(started.params["token_encoder"]["pos_embed"]) == grid[0] * grid[1]
    same_params(started.params["vq"], alone.params)
    kernel = started.params["token_encoder"]["mapping"]["fc1"]["kernel"]
    assert kernel.shape[0] == alone.config.code_dim
    back = tmp_path / "back.safetensors"
    assert convert("to-torch", out, back) == 0
    again = read_weights(back, family=family)
    assert again.config == started.config
    assert convert("verify", back, out, f"--family={family}") == 0
