"""Weights are written tensor by tensor, from wherever they are, whole or not at all."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.cli.convert import main as convert
from toklip_jax.files import LazyArray, find_sharded, read_sharded, write_sharded
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.parallel.fetching import fetch
from toklip_jax.training.workdir import weights_directory, weights_path
from toklip_jax.weights import Weights, fingerprint, load_weights, read_weights, save_weights
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_role

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
FORMAT_1 = pathlib.Path(__file__).parent / "format_1"


def test_arrays_on_devices_are_written_as_those_on_the_host(tmp_path):
    weights = load_weights(FORMAT_1 / "vq")
    on_devices = jax.tree.map(jnp.asarray, weights.params)
    save_weights(tmp_path / "vq", Weights(weights.config, on_devices, False, source=weights.source))
    written, kept = tmp_path / "vq", FORMAT_1 / "vq"
    assert fingerprint(written) == fingerprint(kept)


def test_large_weights_are_split_and_read_back_equal(tmp_path):
    save_weights(tmp_path / "toklip", load_weights(FORMAT_1 / "toklip"), max_shard_bytes=300_000)
    names = sorted(path.name for path in (tmp_path / "toklip").iterdir())
    assert "params.safetensors" not in names
    assert "params.safetensors.index.json" in names
    one, other = load_weights(FORMAT_1 / "toklip"), load_weights(tmp_path / "toklip")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    ids = np.arange(16)[None]
    by_one, by_other = (toklip_jax.load(d / "toklip") for d in (FORMAT_1, tmp_path))
    np.testing.assert_array_equal(by_one.semantic_tokens(ids), by_other.semantic_tokens(ids))
    before = fingerprint(tmp_path / "toklip")
    assert before == fingerprint(tmp_path / "toklip") != fingerprint(FORMAT_1 / "toklip")


def test_a_run_in_place_of_its_weights_is_told_where_they_are(tmp_path):
    for stage in ("vq", "toklip"):
        shutil.copytree(FORMAT_1 / stage, weights_directory(tmp_path, stage))
    paths = [str(weights_directory(tmp_path, stage)) for stage in ("toklip", "vq")]
    with pytest.raises(ValueError, match=re.escape(f": name {' or '.join(paths)}") + "$"):
        load_weights(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f": name {paths[1]}") + "$"):
        load_weights(tmp_path / "vq")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="convert a checkpoint"):
        load_weights(tmp_path / "empty")


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail():
        raise OSError("no space left on device")

    params = {"kernel": LazyArray((2,), np.dtype(np.float32), fail)}
    with pytest.raises(OSError, match="no space left"):
        save_weights(tmp_path / "vq", Weights(LlamaGenConfig(), params, False))
    assert not list(tmp_path.iterdir())
    (tmp_path / "vq").mkdir()
    with pytest.raises(FileExistsError, match="which exists: choose another name"):
        save_weights(tmp_path / "vq", Weights(LlamaGenConfig(), params, False))


def test_fetching_keeps_no_copy_on_the_host():
    array = jnp.arange(6.0)
    np.testing.assert_array_equal(fetch(array), np.arange(6.0))
    np.testing.assert_array_equal(fetch(np.arange(3)), np.arange(3))


def test_a_hugging_face_directory_is_read_by_its_index(golden, tmp_path, capsys):
    source = golden("toklip_tiny/checkpoint.pt")
    tensors = read_checkpoint(source).tensors
    write_sharded(tmp_path, "model", tensors, max_shard_bytes=10**6)
    index = find_sharded(tmp_path, "model")
    assert len(read_sharded(index)[1].files) > 2
    expected = read_weights(source)
    for path in (tmp_path, index):
        weights = read_weights(path)
        assert weights.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, weights.params, expected.params)
    assert convert(["to-jax", str(tmp_path), str(tmp_path / "jax")]) == 0
    assert convert(["verify", str(index), str(tmp_path / "jax")]) == 0
    assert "bit-exact" in capsys.readouterr().out
    index.unlink()
    assert convert(["inspect", str(tmp_path)]) == 2
    assert "expected one index or one .safetensors file" in capsys.readouterr().err


def test_what_a_directory_has_no_use_for_is_refused_by_name(capsys):
    with pytest.raises(ValueError, match="expected no num_heads or is_causal with the converted"):
        toklip_jax.load(FORMAT_1 / "toklip", is_causal=False, num_heads=2)
    assert convert(["inspect", str(FORMAT_1 / "toklip"), "--num-heads=2"]) == 2
    assert "expected no num_heads" in capsys.readouterr().err
    assert convert(["inspect", str(FORMAT_1 / "toklip")]) == 0


def test_integers_are_not_taken_for_parameters(tmp_path, capsys):
    directory = tmp_path / "vq"
    shutil.copytree(FORMAT_1 / "vq", directory)
    tensors = read_sharded(directory / "params.safetensors")[0]
    tensors = {n: x.astype(np.int8) if n == "codebook" else np.array(x) for n, x in tensors.items()}
    write_sharded(directory, "params", tensors)
    with pytest.raises(ValueError, match="got int8 for codebook"):
        toklip_jax.load(directory)
    assert convert(["to-torch", str(FORMAT_1 / "vq"), str(tmp_path / "vq.safetensors")]) == 0
    tensors = dict(read_checkpoint(tmp_path / "vq.safetensors").tensors)
    name = "quantize.embedding.weight"
    tensors[name] = tensors[name].astype(np.int8)
    write_sharded(tmp_path, "quantised", tensors)
    assert convert(["to-jax", str(tmp_path / "quantised.safetensors"), str(tmp_path / "out")]) == 2
    assert f"{name} is int8" in capsys.readouterr().err


SAVE_FROM_A_MESH = """
import sys, jax, numpy as np
from toklip_jax.models.registry import family_of
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.weights import Weights, load_weights, place_params, save_weights

old, out = sys.argv[1:]
weights = load_weights(old)
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
params = place_params(weights, mesh=mesh, rules=family_of(weights.config).sharding)
assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
save_weights(out, Weights(weights.config, params, weights.is_scanned))
for leaf in jax.tree.leaves(params):  # np.asarray would have left the whole model on the host
    assert leaf._npy_value is None, leaf.shape
"""


def test_parameters_on_a_mesh_are_written_whole(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=8"
    }
    command = [
        sys.executable,
        "-c",
        SAVE_FROM_A_MESH,
        str(FORMAT_1 / "toklip"),
        str(tmp_path / "w"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    name = "params.safetensors"
    assert (tmp_path / "w" / name).read_bytes() == (FORMAT_1 / "toklip" / name).read_bytes()


def test_a_home_directory_in_the_path_of_weights_is_expanded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(FORMAT_1 / "vq", tmp_path / "vq")
    assert read_role("vq", "~/vq").source == load_weights(FORMAT_1 / "vq").source
    assert weights_path("~/vq", tmp_path) == tmp_path / "vq"
    assert convert(["inspect", "~/vq"]) == 0
    assert convert(["inspect", "~no_such_user/vq"]) == 2
    assert "found nothing" in capsys.readouterr().err
