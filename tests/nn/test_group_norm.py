"""Our group norm against Flax's, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.norms import GroupNorm

EPS, FLOAT32 = 1e-6, jnp.dtype("float32")


def drawn(shape):
    keys = jax.random.split(jax.random.key(0), 4)
    x, weights = (3 + 2 * jax.random.normal(key, shape) for key in keys[:2])
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[2:])
    return x, weights, {"scale": scale, "bias": bias}


@pytest.mark.parametrize("shape", [(2, 5, 7, 64), (3, 4, 96), (1, 2, 3, 4, 32)])
def test_values_and_gradients_are_those_of_flax(shape):
    x, weights, params = drawn(shape)
    theirs = nn.GroupNorm(32, epsilon=EPS, use_fast_variance=False)
    results = []
    for module in (GroupNorm(32, EPS, FLOAT32), theirs):

        def loss(params, x, module=module):
            out = module.apply({"params": params}, x)
            return jnp.sum(weights * out), out

        gradients, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
        results.append(jax.tree.leaves((out, gradients)))
    for ours, other in zip(*results, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(results[0][0], results[1][0], atol=5e-6)


def test_statistics_are_float32_whatever_the_type():
    x, _, params = drawn((2, 8, 8, 32))
    x = x.astype(jnp.bfloat16)
    narrow = GroupNorm(32, EPS, jnp.dtype("bfloat16")).apply({"params": params}, x)
    wide = GroupNorm(32, EPS, FLOAT32).apply({"params": params}, x.astype(jnp.float32))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_parameters_have_flaxs_names_and_shapes():
    x = jnp.zeros((1, 2, 2, 64))
    ours = GroupNorm(32, EPS, FLOAT32).init(jax.random.key(0), x)
    theirs = nn.GroupNorm(32).init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)
