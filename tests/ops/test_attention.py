import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops.attention import attention


@pytest.fixture
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 7, 3, 8)) for key in keys]


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_equals_jax_own_in_value_and_gradient(qkv, is_causal):
    def total(function):
        return lambda *x: jnp.sum(jnp.sin(function(*x, is_causal=is_causal)))

    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(
            attention(*qkv, is_causal=is_causal),
            jax.nn.dot_product_attention(*qkv, is_causal=is_causal),
            atol=1e-6,
        )
        got, want = (
            jax.grad(total(f), argnums=(0, 1, 2))(*qkv)
            for f in (attention, jax.nn.dot_product_attention)
        )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_bfloat16_attention_stays_near_float32(qkv):
    low = attention(*(x.astype(jnp.bfloat16) for x in qkv), is_causal=True)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        low.astype(jnp.float32), jax.nn.dot_product_attention(*qkv, is_causal=True), atol=3e-2
    )
