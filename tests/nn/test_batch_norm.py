"""Batch norm normalises by running statistics, in training by the batch's, and leaves those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.batch_norm import BatchNorm

EPS = 1e-5
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(2, 3, (2, 3, 4, 5)), jnp.float32)
PARAMS = {
    name: jnp.asarray(RANDOM.uniform(0.5, 2, 5), jnp.float32)
    for name in ("scale", "bias", "mean", "var")
}


def normalised(x, mean, var):
    return (x - mean) / np.sqrt(var + EPS) * PARAMS["scale"] + PARAMS["bias"]


def test_evaluation_takes_the_running_statistics_and_leaves_none():
    got, state = BatchNorm(FLOAT32).apply({"params": PARAMS}, X, mutable=["statistics"])
    np.testing.assert_allclose(got, normalised(X, PARAMS["mean"], PARAMS["var"]), atol=1e-5)
    assert not state


def test_training_takes_the_batchs_and_leaves_the_unbiased_variance():
    norm = BatchNorm(FLOAT32)
    got, state = norm.apply({"params": PARAMS}, X, is_training=True, mutable=["statistics"])
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    np.testing.assert_allclose(got, normalised(X, mean, var), atol=1e-5)
    np.testing.assert_allclose(state["statistics"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state["statistics"]["var"], X.var((0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.parametrize("is_training", [True, False])
def test_gradients_pass_to_all_but_the_running_statistics(is_training):
    """In training they pass through the batch's: the sum of x's gradients is 0 then."""
    weights = RANDOM.normal(size=X.shape).astype(np.float32)

    def loss(params, x):
        return jnp.sum(weights * BatchNorm(FLOAT32).apply({"params": params}, x, is_training))

    of_params, of_x = jax.grad(loss, argnums=(0, 1))(PARAMS, X)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(of_params[name], 0)
    for name in ("scale", "bias"):
        assert float(jnp.abs(of_params[name]).min()) > 0
    total = jnp.abs(of_x.sum((0, 1, 2)))
    assert float(total.max()) < 1e-4 if is_training else float(total.min()) > 1e-2


def test_one_value_a_channel_has_finite_statistics():
    norm = BatchNorm(FLOAT32)
    x = X[:1, :1, :1]
    got, state = norm.apply({"params": PARAMS}, x, is_training=True, mutable=["statistics"])
    np.testing.assert_allclose(got[0, 0, 0], PARAMS["bias"], atol=1e-5)
    np.testing.assert_array_equal(state["statistics"]["var"], 0)


def test_statistics_are_float32_whatever_the_types():
    params = {name: jnp.asarray(x, jnp.bfloat16) for name, x in PARAMS.items()}
    x = jnp.asarray(X, jnp.bfloat16)
    norm = BatchNorm(BFLOAT16)
    got, state = norm.apply({"params": params}, x, is_training=True, mutable=["statistics"])
    assert got.dtype == BFLOAT16
    assert {value.dtype for value in jax.tree.leaves(state)} == {FLOAT32}
