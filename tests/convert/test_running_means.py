"""Running means among the weights, by names without dots: which are taken, and what is said."""

import json
import logging
import pathlib

import flax.traverse_util
import numpy as np
import pytest

import toklip_jax
from tests.convert import torch_files
from tests.convert.vq_files import lightning, noisy, tensors_of
from toklip_jax.cli.convert import main as convert
from toklip_jax.files import write_safetensors
from toklip_jax.weights.containers import find_weights
from toklip_jax.weights.read import read_weights
from toklip_jax.weights.running_means import MAX_MODULES, choose_weights

RAW = {"a.b.weight": np.zeros(3), "a.c": np.zeros(2)}
MEAN = {"model_ema.abweight": np.ones(3), "model_ema.ac": np.ones(2)}
COUNTERS = {"model_ema.decay": np.array(0.9), "model_ema.num_updates": np.array(1)}
FILE = RAW | COUNTERS | MEAN


def find(tree, is_ema=None, **kwargs):
    return find_weights(tree, pathlib.Path("file"), is_ema, **kwargs)


@pytest.mark.parametrize("is_ema", [None, True])
def test_the_mean_of_a_whole_model_is_taken_by_the_names_of_its_weights(is_ema):
    found = find({"state_dict": FILE, "epoch": 3}, is_ema)
    assert {name: id(x) for name, x in found.tensors.items()} == {
        "a.b.weight": id(MEAN["model_ema.abweight"]),
        "a.c": id(MEAN["model_ema.ac"]),
        **{name: id(x) for name, x in COUNTERS.items()},
    }
    assert found.is_mean
    assert found.is_choice == (is_ema is None)
    assert found.taken == "those in state_dict; the running mean in model_ema"


@pytest.mark.parametrize("chosen", [{"is_ema": False}, {"prefers_mean": False}])
def test_raw_weights_have_the_mean_beside_them(chosen):
    found = find(FILE, **chosen)
    assert found.tensors == FILE
    assert not found.is_mean
    assert found.is_choice == ("is_ema" not in chosen)
    assert found.taken == "the raw weights, not their running mean in model_ema"


def test_a_part_of_a_model_is_raw_unless_its_mean_is_asked_for():
    whole = {f"part.{name}": x for name, x in FILE.items()} | {"other.weight": np.zeros(1)}
    found = find(whole)
    assert found.tensors == whole
    assert found.taken == (
        "the raw weights of part, which the model around it was trained on, not their running "
        "mean in part.model_ema"
    )
    assert found.is_choice
    mean = find(whole, is_ema=True)
    assert mean.tensors["part.a.c"] is MEAN["model_ema.ac"]
    assert mean.tensors["other.weight"] is whole["other.weight"]
    assert "part.model_ema.ac" not in mean.tensors
    everything = {f"model.{name}": x for name, x in FILE.items()}  # all of it is in an attribute
    assert find(everything).is_mean


def test_weights_without_a_mean_are_counted_and_named():
    buffers = {f"statistics.{i}": np.zeros(1) for i in range(5)}
    found = find(FILE | buffers)
    assert all(found.tensors[name] is x for name, x in buffers.items())
    assert found.taken == (
        "the running mean in model_ema, and raw what it leaves out (5: statistics.0, "
        "statistics.1, statistics.2, ...)"
    )


def test_names_that_become_the_same_without_dots_are_one_error():
    for is_ema in (None, True):
        with pytest.raises(ValueError, match=r"model_ema\.ac, got a\.c and ac: take the raw"):
            find(FILE | {"ac": np.zeros(2)}, is_ema)
    assert not find(FILE | {"ac": np.zeros(2)}, is_ema=False).is_mean
    with pytest.raises(ValueError, match=r"model_ema\.other, got none: take the raw"):
        find(FILE | {"model_ema.other": np.zeros(2)})


def test_a_mean_of_another_shape_than_its_weight_is_one_error():
    wide = FILE | {"model_ema.ac": np.ones(3)}
    with pytest.raises(ValueError, match=r"ac to have the shape \(2,\) of a\.c, got \(3"):
        find(wide)
    assert find(wide, is_ema=False).tensors == wide


def test_counters_alone_are_no_mean_and_names_with_dots_are_none():
    for tensors in (RAW | COUNTERS, RAW | {"model_ema.a.c": np.zeros(2)}, RAW):
        found = find(tensors)
        assert found.tensors == tensors
        assert found.taken == ""
        with pytest.raises(ValueError, match="expected a running mean of weights in file"):
            find(tensors, is_ema=True)


def test_a_container_of_means_decides_for_all_within_it():
    found = find({"ema": FILE, "model": RAW})
    assert found.tensors == FILE
    assert found.taken == "the running mean in ema"


def test_many_modules_of_means_are_refused():
    many = {f"m{i}.model_ema.a": np.zeros(1) for i in range(MAX_MODULES + 1)}
    with pytest.raises(ValueError, match="expected at most 8 modules of running means, got 9"):
        choose_weights(many, None)


def test_the_names_of_ibqs_own_checkpoint_are_matched(golden):
    names = json.loads(golden("full_keys/ibq_262144_f16_ema_names.json").read_text())
    raw = {name: np.zeros(1) for name in names.values()}
    copies = {name: np.ones(1) for name in names}
    chosen = choose_weights(raw | copies, None)
    assert chosen.taken == "the running mean in model_ema"
    assert chosen.tensors.keys() == raw.keys()
    assert all(chosen.tensors[own] is copies[name] for name, own in names.items())


@pytest.fixture(scope="module")
def raw(golden):
    return tensors_of(golden("ibq_tiny/checkpoint.safetensors"))


@pytest.fixture(scope="module")
def mean(raw):
    return noisy(raw)


@pytest.fixture(scope="module", params=["ckpt", "safetensors"])
def checkpoint(request, raw, mean, tmp_path_factory):
    """IBQ's tokenizer as Lightning saves it, in its container or the names alone."""
    path = tmp_path_factory.mktemp("ibq") / f"ibq.{request.param}"
    if request.param == "safetensors":
        write_safetensors(path, lightning(raw, mean))
        return path
    tree = {"epoch": 3, "state_dict": lightning(raw, mean), "optimizer_states": {"0": {}}}
    return torch_files.save(path, tree)


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize(
    ("flags", "is_ema"), [((), None), (("--weights=ema",), True), (("--weights=raw",), False)]
)
def test_lightnings_checkpoints_convert_with_the_choice_printed(
    checkpoint, raw, mean, flags, is_ema, tmp_path, capsys, caplog
):
    want = raw if is_ema is False else mean
    write_safetensors(tmp_path / "want.safetensors", want)
    expected = read_weights(tmp_path / "want.safetensors")
    caplog.set_level(logging.INFO)
    weights = read_weights(checkpoint, is_ema=is_ema)
    taken = "the raw weights, not their" if is_ema is False else "the running mean in model_ema"
    assert taken in caplog.text
    assert ("is_ema=False takes the raw weights" in caplog.text) == (is_ema is None)
    assert weights.config == expected.config
    got, reference = flat(weights.params), flat(expected.params)
    assert got.keys() == reference.keys()
    assert all(np.array_equal(np.asarray(got[name]), x) for name, x in reference.items())
    assert convert(["to-jax", str(checkpoint), str(tmp_path / "jax"), *flags]) == 0
    printed = capsys.readouterr().out
    assert taken in printed
    assert ("--weights=raw takes the raw weights" in printed) == (is_ema is None)
    assert "ignored: loss.discriminator.main.0.weight: a part of the losses" in printed
    assert convert(["to-torch", str(tmp_path / "jax"), str(tmp_path / "back.safetensors")]) == 0
    back = tensors_of(tmp_path / "back.safetensors")
    assert back.keys() == want.keys()
    for name, x in want.items():
        assert (back[name].dtype, back[name].tobytes()) == (x.dtype, x.tobytes()), name
    assert convert(["verify", str(checkpoint), str(tmp_path / "jax"), *flags]) == 0
    other = "--weights=ema" if is_ema is False else "--weights=raw"
    assert convert(["verify", str(checkpoint), str(tmp_path / "jax"), other]) == 2


def test_a_mean_alone_does_not_make_it_ibqs(golden, tmp_path, caplog):
    """Latent diffusion keeps means of taming's tokenizer by the same names; the depth is its."""
    raw = tensors_of(golden("taming_tiny/checkpoint.safetensors"))
    write_safetensors(tmp_path / "a.safetensors", lightning(raw, raw))
    read_weights(tmp_path / "a.safetensors")
    assert "took this tokenizer for IBQ's, though it has another depth" in caplog.text
    caplog.clear()
    weights = read_weights(tmp_path / "a.safetensors", family="taming")
    assert weights.source.startswith("taming-transformers' VQGAN")
    assert "another depth" not in caplog.text


def test_a_checkpoint_without_a_mean_needs_no_choice(raw, tmp_path, capsys):
    loss = {"loss.discriminator.main.0.weight": np.ones(3, np.float32)}
    path = torch_files.save(tmp_path / "last.ckpt", {"state_dict": raw | loss})
    assert toklip_jax.load(path).config.codebook_size == 512
    assert convert(["inspect", str(path), "--weights=ema"]) == 2
    assert "expected a running mean of weights in" in capsys.readouterr().err


def test_open_magvit2s_mean_is_taken_and_its_losses_are_left_aside(golden, tmp_path):
    raw = tensors_of(golden("magvit2_tiny/checkpoint.safetensors"))
    mean = noisy(raw)
    path = torch_files.save(tmp_path / "a.ckpt", {"state_dict": lightning(raw, mean)})
    for is_ema, want in ((None, mean), (False, raw)):
        write_safetensors(tmp_path / f"{is_ema}.safetensors", want)
        expected = read_weights(tmp_path / f"{is_ema}.safetensors")
        weights = read_weights(path, is_ema=is_ema)
        assert weights.config == expected.config
        got, reference = flat(weights.params), flat(expected.params)
        assert got.keys() == reference.keys()
        assert all(np.array_equal(np.asarray(got[name]), x) for name, x in reference.items())
        beside = {name.split(".")[0] for name in weights.dropped}
        assert beside == {"loss", "model_ema"}


def test_tamings_losses_are_left_aside(golden, tmp_path):
    raw = tensors_of(golden("taming_tiny/checkpoint.safetensors"))
    saved = lightning(raw, raw)
    tree = {"state_dict": {n: x for n, x in saved.items() if not n.startswith("model_ema.")}}
    weights = read_weights(torch_files.save(tmp_path / "last.ckpt", tree), family="taming")
    assert weights.dropped.keys() == {name for name in saved if name.startswith("loss.")}
    assert weights.source == "taming-transformers' VQGAN, last.ckpt (those in state_dict)"
