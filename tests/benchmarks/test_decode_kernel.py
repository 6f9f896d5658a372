"""The kernel of all layers, as one program on a CPU, against the package's layers."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.generator.config import GPTConfig

pytestmark = pytest.mark.plain
CONFIG = GPTConfig(128, 2, 4, 256, grid=(9, 9), codebook_sizes=(64,), num_classes=3)


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2])
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(("rows", "bound"), [(1, 5e-3), (2, 5e-3), (3, 1e-2)])
def test_every_place_is_that_of_the_layers(load, rows, bound):
    """Both round keys and values to bfloat16; above two rows the kernel rounds its operands too."""
    layers = load("decode_layers")
    params = layers.layer_params(CONFIG)
    params = jax.tree.map(lambda x: np.asarray(jnp.bfloat16(x), np.float32), params)
    x = np.random.default_rng(0).standard_normal((CONFIG.num_positions, rows, CONFIG.width))
    x = jnp.bfloat16(x)
    with jax.default_matmul_precision("highest"):
        exact = np.asarray(layers.plain_layers(CONFIG, params, rows, "float32")(x))
    fused = np.asarray(layers.fused_layers(CONFIG, params, rows)(x))
    np.testing.assert_allclose(fused, exact, atol=bound * np.abs(exact).max())


@pytest.mark.parametrize("way", ["early", "early and even", "short chunks"])
@pytest.mark.parametrize("programs", [4, 64])
def test_cuts_cover_every_number_once(load, programs, way):
    """However many programs share them."""
    tiling, ways = load("decode_tiling"), load("decode_layers").WAYS
    sizes = tiling.Sizes(256, 2, 4, 384, 1e-5, programs, **ways[f"one kernel, {way}"])
    for name, (inner, outer) in {
        "qkv": (256, 768), "proj": (256, 256), "up": (256, 768), "down": (384, 256),
    }.items():  # fmt: skip
        cut = sizes.tilings[name]
        assert cut.tiles * cut.columns * cut.length == inner * outer
        assert cut.length * cut.splits == inner
        assert cut.length % sizes.chunk == 0
    assert sizes.key_parts(1, 300) == (1 if programs == 4 else 5)


def test_keys_in_parts_and_hidden_places(load):
    kernel, tiling = load("decode_kernel"), load("decode_tiling")
    random = np.random.default_rng(0)
    shape = 2, 1, 4, 300, 32  # layers, sequences, heads, places, size
    keys, values = (jnp.bfloat16(random.standard_normal(shape)) for _ in range(2))
    visible = jnp.asarray(random.random((1, 300)) < 0.8, jnp.int32)
    layer = {
        "norm1": (128,), "norm2": (128,), "qkv": (128, 384), "proj": (128, 128),
        "gate": (128, 256), "fc1": (128, 256), "fc2": (256, 128),
    }  # fmt: skip
    layers = [
        {name: jnp.float32(random.standard_normal(size) / 11) for name, size in layer.items()}
        for _ in range(2)
    ]
    x, angles = jnp.float32(random.standard_normal((1, 128))), jnp.ones((300, 16)) * 0.7
    outs = []
    for programs in (4, 8, 64):  # one part of the keys, two that share them, and five
        sizes = tiling.Sizes(128, 2, 4, 256, 1e-5, programs)
        packed = tiling.pack(layers, sizes)
        args = x, packed, keys, values, visible, jnp.int32(299), angles, angles, sizes
        outs.append(kernel.run_layers(*args, interpret=True))
    short = load("decode_layers").WAYS["one kernel, short chunks"]
    even = tiling.Sizes(128, 2, 4, 256, 1e-5, 64, **short)
    assert (sizes.tilings["down"].splits, even.tilings["down"].splits) == (2, 4)
    rest = keys, values, visible, jnp.int32(299), angles, angles
    outs.append(kernel.run_layers(x, tiling.pack(layers, even), *rest, even, interpret=True))
    for others in outs[:2], outs[3:]:
        for same in others:
            for ours, theirs in zip(same, outs[2], strict=True):
                np.testing.assert_allclose(np.float32(ours), np.float32(theirs), atol=2e-5)
    unseen = jnp.where(visible[:, None, :, None] == 0, 9.0, keys).astype(keys.dtype)
    args = x, packed, unseen, values, visible, jnp.int32(299), angles, angles, sizes
    changed = kernel.run_layers(*args, interpret=True)[0]
    np.testing.assert_array_equal(changed, outs[2][0])  # what a place doesn't see changes nothing
