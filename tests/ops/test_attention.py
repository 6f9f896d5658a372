import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops import attention as ops
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


def value_and_grads(qkv, **masks):
    def total(*qkv):
        out = attention(*qkv, **masks)
        return jnp.sum(jnp.sin(out)), out

    with jax.default_matmul_precision("highest"):
        (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*qkv)
    return out, grads


@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_heads_equal_repeated_ones_in_value_and_gradient(qkv, is_causal):
    query = jnp.concatenate([qkv[0], qkv[0] + 1], axis=2)  # 6 heads on 3
    repeated = [query, *(x.repeat(2, axis=2) for x in qkv[1:])]
    out, grads = value_and_grads([query, *qkv[1:]], is_causal=is_causal)
    want, want_grads = value_and_grads(repeated, is_causal=is_causal)
    np.testing.assert_allclose(out, want, atol=1e-6)
    np.testing.assert_allclose(grads[0], want_grads[0], atol=1e-6)
    for got, wide in zip(grads[1:], want_grads[1:], strict=True):
        np.testing.assert_allclose(got, wide.reshape(2, 7, 3, 2, 8).sum(3), atol=2e-6)


def test_positions_in_order_are_the_plain_causal_mask(qkv):
    positions = jnp.tile(jnp.arange(7), (2, 1))
    masks = {"query_positions": positions, "key_positions": positions}
    out, grads = value_and_grads(qkv, is_causal=True, **masks)
    want, want_grads = value_and_grads(qkv, is_causal=True)
    np.testing.assert_allclose(out, want, atol=1e-6)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_padding_sees_nothing_is_not_seen_and_gives_zero(qkv):
    positions = jnp.array([[-1, -1, 0, 1, 2, 3, 4], [-1] * 7])
    masks = {"query_positions": positions, "key_positions": positions}
    out, grads = value_and_grads(qkv, **masks)
    assert not np.asarray(out[0, :2]).any()
    assert not np.asarray(out[1]).any()
    for grad in grads:
        assert np.isfinite(grad).all()
        assert not np.asarray(grad[0, :2]).any()
        assert not np.asarray(grad[1]).any()
    want = attention(*(x[:1, 2:] for x in qkv))
    np.testing.assert_allclose(out[:1, 2:], want, atol=1e-6)


def test_what_does_not_fit_together_is_refused(qkv):
    positions = jnp.zeros((2, 7), jnp.int32)
    with pytest.raises(ValueError, match="positions of both queries and keys"):
        attention(*qkv, query_positions=positions)
    with pytest.raises(ValueError, match="segments of both queries and keys"):
        attention(*qkv, key_segments=positions)
    with pytest.raises(ValueError, match="that divide the query's 3, got 2"):
        attention(qkv[0], *(x[:, :, :2] for x in qkv[1:]))


def test_cudnn_takes_half_precision_without_positions_on_nvidia_gpus_alone(qkv, monkeypatch):
    def fits(is_causal=False, dtype="bfloat16", shape=(2, 7, 3, 72), of_keys=None):
        query, key = (jax.ShapeDtypeStruct(s, dtype) for s in (shape, of_keys or shape))
        return ops.fits_cudnn(query, key, key, is_causal)

    assert not fits()  # there is no GPU here
    monkeypatch.setattr(ops, "_has_cudnn", lambda: True)
    assert fits()
    assert fits(True)
    assert fits(dtype="float16")
    assert not fits(dtype="float32")
    assert not fits(shape=(2, 7, 3, 70))
    assert not fits(shape=(2, 7, 3, 136))
    assert not fits(shape=(2, 1, 3, 64), of_keys=(2, 9, 3, 64))  # a cached step
    other = (2, 9, 3, 72)
    assert fits(of_keys=other)
    assert not fits(True, of_keys=other)

    monkeypatch.setattr(ops, "_cudnn", lambda *x, is_causal: x[2] + 100)
    half = [x.astype(jnp.bfloat16) for x in qkv]
    places = jnp.broadcast_to(jnp.arange(7), (2, 7))
    positions = {"query_positions": places, "key_positions": places}
    segments = {"query_segments": places, "key_segments": places}

    def has_branches(inputs, **others):
        jaxpr = jax.make_jaxpr(lambda *x: attention(*x, is_causal=True, **others))(*inputs)
        return "100.0" in str(jaxpr)

    assert has_branches(half)
    assert not any(has_branches(half, **others) for others in (positions, segments))
    assert not has_branches(qkv)
    np.testing.assert_array_equal(  # what is run here is written out
        np.float32(jax.jit(functools.partial(attention, is_causal=True))(*half)),
        np.float32(jax.jit(functools.partial(ops.written_out, is_causal=True))(*half)),
    )


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_bias_and_scale_equal_jax_own_in_value_and_gradient(num_kv_heads):
    keys = jax.random.split(jax.random.key(1), 4)
    query = jax.random.normal(keys[0], (2, 7, 4, 8))
    key, value = (jax.random.normal(k, (2, 7, num_kv_heads, 8)) for k in keys[1:3])
    bias = jax.random.normal(keys[3], (4, 7, 7))

    def own(*x):
        return attention(*x[:3], is_causal=False, bias=x[3], scale=0.5)

    def theirs(*x):
        return jax.nn.dot_product_attention(*x[:3], bias=x[3][None], scale=0.5)

    def gradients(function):
        def total(*x):
            return jnp.sum(jnp.sin(function(*x)))

        return jax.grad(total, argnums=(0, 1, 2, 3))(query, key, value, bias)

    with jax.default_matmul_precision("highest"):
        got, want = own(query, key, value, bias), theirs(query, key, value, bias)
        np.testing.assert_allclose(got, want, atol=1e-6)
        for a, b in zip(gradients(own), gradients(theirs), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
