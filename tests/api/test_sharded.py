"""Inputs and parameters over eight devices, in a process that has them."""

import os
import pathlib
import subprocess
import sys

import pytest

WEIGHTS = pathlib.Path(__file__).parents[1] / "weights" / "format_1" / "toklip"

SETUP = f"""
import jax, jax.numpy as jnp, numpy as np, toklip_jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from toklip_jax.api.program import Method, _placement, _run
from toklip_jax.parallel.sharding import batch_sharding, make_mesh

def near(got, want):
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=1e-5)

def sharded_over(mesh, axes, array):
    return jax.device_put(array, NamedSharding(mesh, P(axes)))

def expect_no_gather(toklip, name, inputs):
    method = toklip._methods()[name]
    lowered = _run.lower(_placement(inputs), toklip.model, method, toklip.params, inputs)
    text = lowered.compile().as_text()
    assert "num_partitions=8" in text
    for operation in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert operation not in text, (name, operation)

path = {str(WEIGHTS)!r}
toklip = toklip_jax.load(path)
pictures = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
ids = np.asarray(toklip.tokenize(pictures))
want = {{
    "tokenize": toklip.tokenize(pictures),
    "encode": toklip.encode(pictures),
    "image_features": toklip.image_features(pictures),
    "semantic_tokens": toklip.semantic_tokens(ids),
    "detokenize": toklip.detokenize(ids),
}}
OF_PICTURES = ("tokenize", "encode", "image_features")
"""

INPUTS_STAY = """
devices = np.array(jax.devices())
meshes = [
    (make_mesh({"data": 8}), ("data", "fsdp")),
    (make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), "data"),
    (Mesh(devices.reshape(4, 2), ("a", "b")), "a"),
    (jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit,)), "rows"),
]
for mesh, axes in meshes:
    for name in want if axes == "rows" else ("tokenize", "semantic_tokens"):
        expected, array = want[name], pictures if name in OF_PICTURES else ids
        inputs = sharded_over(mesh, axes, array)
        got = getattr(toklip, name)(inputs)
        assert got.sharding.is_equivalent_to(NamedSharding(mesh, P(axes)), got.ndim), (mesh, name)
        near(got, expected)

# Within a program, what is traced tells how it is sharded on meshes of explicit axes.
inputs = sharded_over(mesh, axes, pictures)
got = jax.jit(lambda images: toklip.semantic_tokens(toklip.tokenize(images)))(inputs)
assert got.sharding.is_equivalent_to(NamedSharding(mesh, P(axes)), got.ndim)
near(got, want["semantic_tokens"])
"""

NOTHING_IS_GATHERED = """
rows = sharded_over(Mesh(np.array(jax.devices()), ("rows",)), "rows", pictures)
expect_no_gather(toklip, "tokenize", rows)
mesh = make_mesh({"data": 8})
everywhere = toklip_jax.load(path, mesh=mesh)
expect_no_gather(everywhere, "tokenize", sharded_over(mesh, ("data", "fsdp"), pictures))
expect_no_gather(everywhere, "semantic_tokens", sharded_over(mesh, ("data", "fsdp"), ids))
"""

PARAMETERS = """
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
split = toklip_jax.load(path, mesh=mesh)
kernel = split.params["token_encoder"]["stack"]["blocks"]["mlp"]["fc1"]["kernel"]
assert kernel.sharding.spec == P(None, "fsdp", "tensor")
assert kernel.addressable_shards[0].data.size * 4 == kernel.size
leaves = zip(jax.tree.leaves(split.params), jax.tree.leaves(toklip.params), strict=True)
for one, other in leaves:
    assert len(one.sharding.device_set) == 8
    np.testing.assert_array_equal(one, other)
for name in ("tokenize", "image_features"):
    expected, array = want[name], pictures
    got = getattr(split, name)(array)
    assert got.sharding.is_equivalent_to(batch_sharding(mesh), got.ndim), name
    near(got, expected)
    near(getattr(split, name)(array[:3]), expected[:3])  # which the mesh does not divide
chunked = toklip_jax.load(path, mesh=mesh, batch_size=4, param_dtype="bfloat16")
assert chunked.params["token_encoder"]["pos_embed"].dtype == jnp.bfloat16
twice = np.concatenate([pictures, pictures])[:13]
np.testing.assert_array_equal(chunked.tokenize(twice), np.concatenate([ids, ids])[:13])
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(INPUTS_STAY, id="sharded inputs give results that are sharded so"),
        pytest.param(NOTHING_IS_GATHERED, id="nothing is gathered where rows alone are sharded"),
        pytest.param(PARAMETERS, id="parameters are loaded onto a mesh and give the same results"),
    ],
)
def test_on_eight_devices(code):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
