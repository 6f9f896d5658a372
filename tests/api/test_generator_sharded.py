"""Samples over eight devices are those of one."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
WEIGHTS = ROOT / "tests" / "weights" / "format_1" / "toklip"

CODE = f"""
import jax, numpy as np
import toklip_jax
from benchmarks.weights import random_params
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.weights import Weights, load_weights, save_weights

toklip = load_weights({str(WEIGHTS)!r})
gpt = GPTConfig(32, 2, 4, grid=(4, 4), codebook_sizes=(16,), num_classes=4, semantic="concat",
                semantic_dim=16)
config = GeneratorConfig(gpt, toklip.config)
params = random_params(lambda key: init_params(config, Compute(is_scanned=True), key))
params["gpt"]["head"]["codes_0"] = np.random.default_rng(0).normal(0, 1, (32, 16)).astype("f4")
params["tokenizer"] = jax.tree.map(np.asarray, toklip.params)
save_weights("weights", Weights(config, params, True))
alone = toklip_jax.load("weights")
options = {{"classes": np.arange(11) % 4, "key": 1, "cfg_scale": 2.0}}
want = np.asarray(alone.sample(**options))
for sizes in ({{"data": 8}}, {{"data": 2, "fsdp": 2, "tensor": 2}}, {{"data": 1, "tensor": 8}}):
    sharded = toklip_jax.load("weights", mesh=make_mesh(sizes))
    got = np.asarray(sharded.sample(**options))
    # A draw turns where rounding decides: none does here, as the logits lie apart.
    np.testing.assert_array_equal(got, want, str(sizes))
    chunks = toklip_jax.load("weights", mesh=make_mesh(sizes), batch_size=8)
    np.testing.assert_array_equal(chunks.sample(**options), want)
print("equal")
"""


def test_samples_over_any_mesh_are_those_of_one_device(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "equal" in done.stdout
