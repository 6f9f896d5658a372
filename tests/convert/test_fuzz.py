"""Thousands of damaged files: each is refused in one clear line, or read exactly, and soon.

An input is made by `mutations` from a seed, so a failure's number makes it again. Half of them have
their meaning changed and stay well-formed; the others have bytes changed as well.
"""

import json
import pathlib
import resource
import shutil
import time

import flax.traverse_util
import numpy as np
import pytest

from tests.convert import mutations
from toklip_jax.cli.convert import main as convert
from toklip_jax.core.errors import UserError
from toklip_jax.models.registry import param_shapes
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.weights import Weights, load_weights, save_weights
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.read import read_weights

TOWER = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 16}
CONFIG = TeacherConfig(
    VisionConfig(**TOWER, image_size=16, patch_size=8),
    TextConfig(**TOWER, vocab_size=16, context_length=4),
)
HEADS = {"num_heads": 2, "text_num_heads": 2}
SECONDS, MIB = 5, 300  # at most: CPU time of an input, and how much memory all of them may add


@pytest.fixture(scope="module")
def weights():
    random = np.random.default_rng(0)
    flat = {n: random.standard_normal(s, np.float32) for n, s in param_shapes(CONFIG).items()}
    return Weights(CONFIG, flax.traverse_util.unflatten_dict(flat, sep="/"), is_scanned=False)


@pytest.fixture(scope="module")
def tensors(weights):
    return {name: np.ascontiguousarray(x) for name, x in export_tensors(weights).items()}


def try_many(count, attempt):
    """Runs attempts, and compares the memory and the time that they take with the limits."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(count):
        begin = time.process_time()
        attempt(seed)
        assert time.process_time() - begin < SECONDS, seed
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert grown < MIB, f"{grown:.0f} MiB"


def expect_clear(message, path, seed):
    first = message.split("\n")[0]
    assert str(path) in first, (seed, first)
    assert max(map(len, message.split("\n"))) < 1000, seed
    assert all(c.isprintable() or c == "\n" for c in message), (seed, message)


def fuzz_files(count, tensors, tmp_path, capsys):
    outcomes = {"read": 0, "refused": 0}

    def attempt(seed):
        random = np.random.default_rng(seed)
        kind = list(mutations.KINDS)[seed % len(mutations.KINDS)]
        data = mutations.KINDS[kind](tensors, random)
        if random.random() < 0.5:
            data = mutations.damaged_bytes(data, random)
        path = tmp_path / "damaged.bin"
        path.write_bytes(data)
        try:
            read = read_weights(path, **HEADS)
        except UserError as error:  # any other keeps its traceback, where a command meets it
            outcomes["refused"] += 1
            expect_clear(str(error), path, seed)
        else:
            outcomes["read"] += 1
            for name, array in export_tensors(read).items():
                assert np.isfinite(np.asarray(array)).all(), (seed, name)
        if seed % 20 == 0:
            out = tmp_path / f"out{seed}"
            flags = [f"--{name}={value}" for name, value in HEADS.items()]
            status = convert(["to-jax", str(path), str(out), *flags])
            printed = capsys.readouterr()
            assert status == (0 if out.exists() else 2), seed
            if status:
                assert printed.err.count("error: ") == 1
                expect_clear(printed.err, path, seed)
            else:
                assert convert(["verify", str(path), str(out)]) == 0, seed
                shutil.rmtree(out)

    try_many(count, attempt)
    assert outcomes["refused"] > count / 2, outcomes
    assert outcomes["read"] > count / 50, outcomes  # so that the inputs reach beyond the parsers


def fuzz_directories(count, weights, tmp_path):
    def attempt(seed):
        random = np.random.default_rng(10**6 + seed)
        copy = pathlib.Path(shutil.copytree(good, tmp_path / "copy"))
        path = copy / mutations.pick(["toklip.json", "params.safetensors"], random)
        if path.suffix == ".json" and random.random() < 0.8:
            fields = json.loads(path.read_text())
            fields.pop("checksum")  # which would find every change before the fields are looked at
            fields = mutations.changed_json(fields, random)
            path.write_text(json.dumps(fields))
        else:
            path.write_bytes(mutations.damaged_bytes(path.read_bytes(), random))
        try:
            load_weights(copy)
        except UserError as error:
            expect_clear(str(error), copy, seed)
        finally:
            shutil.rmtree(copy)

    good = tmp_path / "good"
    save_weights(good, weights)
    try_many(count, attempt)


def test_damaged_files_are_refused_in_one_clear_line(tensors, tmp_path, capsys):
    fuzz_files(160, tensors, tmp_path, capsys)


def test_damaged_directories_are_refused_in_one_clear_line(weights, tmp_path):
    fuzz_directories(40, weights, tmp_path)


@pytest.mark.slow
def test_thousands_of_damaged_files_and_directories(weights, tensors, tmp_path, capsys):
    fuzz_files(1600, tensors, tmp_path, capsys)
    fuzz_directories(400, weights, tmp_path)
