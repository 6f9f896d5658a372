"""The table of rules, and constraints; whole runs on a mesh are for `test_main`'s eight devices."""

import os
import pathlib
import runpy
import subprocess
import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jax.sharding import PartitionSpec as P

from toklip_jax.models.registry import TOKLIP, init_params
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import (
    AXES,
    BATCH_AXES,
    MeshConfig,
    constrain,
    describe_mesh,
    make_mesh,
    map_sharded_rows,
    mesh_sizes,
    put_batch,
    shardings,
)
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.step import create_state

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SIZE = TOKLIP_SIZES["toklip_s_256"]


def abstract_mesh(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), AXES, (AxisType.Auto,) * 3)


def specs(tree, mesh):
    flat = jax.tree_util.tree_leaves_with_path(shardings(tree, mesh, TOKLIP.sharding))
    return {"/".join(str(getattr(k, "key", k)) for k in path): s.spec for path, s in flat}


@pytest.fixture(scope="module")
def params():
    compute = Compute(is_scanned=True)
    return jax.eval_shape(lambda rng: init_params(SIZE, compute, rng), jax.random.key(0))


def test_large_parameters_lie_over_fsdp_and_tensor(params):
    mesh = abstract_mesh(2, 4, 2)
    found = specs(params, mesh)
    blocks = "token_encoder/stack/blocks"
    assert found[f"{blocks}/attn/qkv/kernel"] == P(None, "fsdp", None, "tensor", None)
    assert found[f"{blocks}/mlp/fc1/kernel"] == P(None, "fsdp", "tensor")
    assert found[f"{blocks}/mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
    assert found["text_tower/token_embed"] == P("tensor", "fsdp")
    whole = [
        name
        for name, leaf in flat(params).items()
        if found[name] == PartitionSpec() and leaf.size > 2**20 and not name.startswith("vq/")
    ]
    assert not whole  # nothing of a million numbers is on every device, the VQ's kernels aside


def test_an_axis_that_does_not_divide_is_dropped(params):
    found = specs(params, abstract_mesh(1, 1, 5))  # 16 heads and 4304 hidden units on 5 devices
    blocks = "token_encoder/stack/blocks"
    assert found[f"{blocks}/attn/qkv/kernel"] == P(None, "fsdp", None, None, None)
    assert found[f"{blocks}/mlp/fc1/kernel"] == P(None, "fsdp", None)


def test_optimizer_state_lies_as_its_parameters_do(params):
    mesh = abstract_mesh(2, 2, 2)
    encoder = params["token_encoder"]
    state = jax.eval_shape(lambda p: create_state(p, OptimizerConfig(ema_decay=0.9), 10), encoder)
    placed = shardings(state, mesh)
    own = jax.tree.leaves(placed.params)
    for copy in (placed.ema, placed.opt_state[0].mu, placed.opt_state[0].nu):
        assert jax.tree.leaves(copy) == own
    assert any(sharding.spec != PartitionSpec() for sharding in own)


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 0}, {"data": -1, "fsdp": -1}])
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes):
    with pytest.raises(ValueError, match="expected mesh sizes"):
        make_mesh(sizes, jax.devices()[:1])


@pytest.mark.parametrize(
    ("devices", "sizes"),
    [
        (1, (1, 1, 1)),
        (2, (1, 2, 1)),
        (4, (1, 4, 1)),
        (8, (1, 8, 1)),
        (6, (3, 2, 1)),
        (64, (8, 8, 1)),
    ],
)
def test_the_recipes_mesh_adapts_to_the_devices(devices, sizes):
    config = runpy.run_path(str(CONFIGS / "toklip_s_256.py"))["get_config"]()
    assert mesh_sizes(MeshConfig(**config.mesh), devices) == sizes


def test_a_mesh_says_how_it_has_adapted():
    config, mesh = MeshConfig(-1, 8, 1, adapts=True), abstract_mesh(1, 4, 1)
    assert describe_mesh(config, mesh) == (
        "4 devices, as data 1 x fsdp 4 x tensor 1 (for up to fsdp 8, as the config asks, take more)"
    )
    with pytest.raises(ValueError, match=r"expected mesh.data=-1 with mesh.adapts, got 2"):
        MeshConfig(2, 8, 1, adapts=True)


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match=r"field of mesh.*got 'model'"):
        make_mesh({"data": 1, "model": 1})


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="expected a batch size divisible by 4"):
        put_batch({"x": np.zeros((6, 2))}, abstract_mesh(2, 2, 1))


@pytest.mark.parametrize(
    ("flags", "before", "devices"),
    [("", "", 2), ("--xla_force_host_platform_device_count=3", "", 3), ("", "jax.devices()", 1)],
)
def test_a_cpu_is_divided_into_devices_unless_something_else_says_how(flags, before, devices):
    script = (
        f"import jax; {before}\n"
        "from toklip_jax.parallel.sharding import make_mesh\n"
        "print(make_mesh({'data': -1, 'cpu_devices': 2}).size)"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) == devices


def test_without_a_mesh_a_constraint_is_nothing():
    x = jnp.zeros((2, 3))
    assert constrain(x, BATCH_AXES, "tensor") is x
    assert map_sharded_rows(lambda rows, whole: rows, x, x) is x


ON_EIGHT_DEVICES = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import BATCH_AXES, constrain, make_mesh, shardings
from toklip_jax.tasks.toklip.objective import TokLIPObjective

mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})

# Where the devices don't divide a dimension, or shard_map has it, nothing is constrained.
with jax.set_mesh(mesh):
    odd = jax.jit(lambda x: constrain(x, BATCH_AXES, "tensor"))(jnp.ones((3, 5)))
    even = jax.jit(lambda x: constrain(x, BATCH_AXES, "tensor"))(jnp.ones((4, 6)))
    inside = jax.shard_map(
        lambda x: constrain(x, BATCH_AXES, None), in_specs=P("data"), out_specs=P("data")
    )
    jax.jit(inside)(jnp.ones((8, 2)))
assert even.sharding.shard_shape(even.shape) == (1, 3), even.sharding
assert odd.shape == (3, 5)

vq = LlamaGenConfig(
    64, channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=8
)
vision = VisionConfig(64, 2, 4, is_causal=True, image_size=32, patch_size=8)
text = TextConfig(64, 2, 4, vocab_size=512, context_length=16)
model = TokLIPConfig(vq, vision, text, has_logit_bias=False)
teacher = dataclasses.replace(vision, is_causal=False)
objective = TokLIPObjective(model, teacher, Compute(remat="full"))
params = jax.jit(objective.init)(jax.random.key(0))
rng = np.random.default_rng(0)
batch = {
    "images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
    "token_ids": rng.integers(0, 512, (8, 16), np.int32),
}

def run(params, batch):
    def loss(params):
        return objective.loss(params, batch, jax.random.key(1))[0]
    return jax.value_and_grad(loss)(params)

# The same pairs as a cache has them.
made = jax.jit(objective.prepare)(params, batch)
feature = jax.jit(objective.text_feature)(params, batch["token_ids"])
cached = {
    "ids": made["ids"].astype(jnp.uint16),
    "token_ids": batch["token_ids"],
    "teacher_feature": made["teacher_feature"].astype(jnp.bfloat16),
    "text_feature": feature.astype(jnp.bfloat16),
}

def check(path, want, got):
    error = np.max(np.abs(want - got)) / (np.max(np.abs(want)) + 1e-12)
    assert error < 1e-4 or np.max(np.abs(want)) < 1e-6, (path, error)

for rows in (cached, batch):
    plain = jax.device_get(jax.jit(run)(params, rows))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings(params, mesh, objective.sharding))
        put = jax.device_put(rows, jax.sharding.NamedSharding(mesh, P(BATCH_AXES)))
        compiled = jax.jit(run).lower(placed, put).compile()
        constrained = jax.device_get(compiled(placed, put))
    jax.tree_util.tree_map_with_path(check, plain, constrained)

from toklip_jax.planning.hlo import find_collectives
gathers = [c for c in find_collectives(compiled.as_text()) if c.kind == "all-gather"]
table = 512 * 64 * 4
assert gathers and max(c.size for c in gathers) < table, max(gathers, key=lambda c: c.size)
"""


@pytest.mark.slow
def test_constraints_change_no_result_and_gather_no_table():
    """Values and gradients, of images and from a cache, on 2 x 2 x 2 devices against one."""
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")
