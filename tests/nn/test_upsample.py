"""Upsampling and its convolution are computed at once; they have to mean one after the other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.convolutional import Upsample, _doubled_by_phases, conv

FLOAT = jnp.dtype("float32")


class Plain(nn.Module):
    """As PyTorch computes it: every pixel four times, then nine taps for each of them."""

    width: int = 0
    dtype: jnp.dtype = FLOAT

    @nn.compact
    def __call__(self, x):
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return conv(self.width or x.shape[-1], self.dtype, "conv")(x)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, 5, 7, 16))


def apply(module, params, x):
    with jax.default_matmul_precision("highest"):
        return module.apply(params, x)


def make(images, width=0):
    """The parameters of both, which have to be the same, with a bias that isn't 0."""
    plain = Plain(width).init(jax.random.key(1), images)
    fast = Upsample(FLOAT, width).init(jax.random.key(1), images)
    jax.tree.map(np.testing.assert_array_equal, plain, fast)
    return jax.tree.map(lambda p: p + 0.1, plain)


@pytest.mark.parametrize("width", [0, 24])
def test_equals_repeated_pixels_then_a_convolution(images, width):
    params = make(images, width)
    ours = apply(Upsample(FLOAT, width), params, images)
    expected = apply(Plain(width), params, images)
    assert ours.shape == (2, 10, 14, width or 16)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=3e-6)


def test_gradients_equal(images):
    params = make(images)
    weights = jax.random.normal(jax.random.key(2), (2, 10, 14, 16))

    def gradients(module):
        return jax.grad(lambda *a: jnp.sum(apply(module, *a) * weights), (0, 1))(params, images)

    ours, expected = gradients(Upsample(FLOAT)), gradients(Plain())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, expected
    )


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_bfloat16_rounds_about_as_much_as_the_plain_formula(images, param_dtype):
    params = jax.tree.map(lambda p: p.astype(param_dtype), make(images))
    exact = apply(Plain(), jax.tree.map(jnp.float32, params), images)
    narrow = jnp.dtype("bfloat16")
    ours, plain = Upsample(narrow).apply(params, images), Plain(0, narrow).apply(params, images)
    assert ours.dtype == plain.dtype == narrow

    def error(x):
        return np.sqrt(np.mean(np.square(np.float32(x) - exact)))

    # Sums of taps are rounded once more than taps are.
    assert error(ours) < 1.6 * error(plain)


def test_other_platforms_double_first(images, monkeypatch):
    params = make(images)
    program = jax.jit(Upsample(FLOAT).apply).trace(params, images)
    of_tpu, of_cpu = (
        program.lower(lowering_platforms=(platform,)).as_text() for platform in ("tpu", "cpu")
    )
    assert of_tpu.count("stablehlo.convolution") == 1
    assert of_cpu.count("stablehlo.convolution") == 4
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    elsewhere = apply(Upsample(FLOAT), params, images)
    np.testing.assert_allclose(elsewhere, apply(Plain(), params, images), rtol=1e-6, atol=3e-6)


def test_takes_four_ninths_of_the_multiplications():
    x = jnp.zeros((1, 32, 32, 32))
    flops = [
        jax.jit(module.apply)
        .lower(module.init(jax.random.key(0), x), x)
        .compile()
        .cost_analysis()["flops"]
        for module in (Upsample(FLOAT), Plain())
    ]
    assert flops[0] < 0.48 * flops[1]


def test_no_image_gives_none():
    out = _doubled_by_phases(jnp.zeros((0, 4, 3, 2)), jnp.zeros((3, 3, 2, 5)))
    assert out.shape == (0, 8, 6, 5)
