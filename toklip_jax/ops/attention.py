"""Dot-product attention: the one place that says how it is computed, and who sees whom."""

import functools
from typing import Any

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.ops.products import einsum

# Stands for -inf where all logits of a row may be masked, whose softmax would be NaN.
MASKED = float(jnp.finfo(jnp.float32).min)
CUDNN_SIZE = 128  # of a head, at most
CUDNN_CAPABILITY = 8.0  # Ampere


def attention(
    query: Float[Array, "b t k e"],
    key: Float[Array, "b s g e"],
    value: Float[Array, "b s g e"],
    *,
    is_causal: bool = False,
    query_positions: Int[Array, "b t"] | None = None,
    key_positions: Int[Array, "b s"] | None = None,
    query_segments: Int[Array, "b t"] | None = None,
    key_segments: Int[Array, "b s"] | None = None,
    bias: Float[Array, "k t s"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b t k e"]:
    """Returns softmax attention of the logits scale * q·k + bias.

    A query sees a key where their segments are equal and, if `is_causal`, the key's position is not
    greater than the query's. A negative position means that nothing stands there (padding, or an
    empty place of a cache): it sees nothing, nothing sees it, and its result is 0. The order of
    places in the arrays does not matter, so that padded rows, packed rows and cached steps need no
    rules of their own.

    Logits and softmax are float32 whatever the inputs' type; the result has the value's type.

    There may be fewer heads g of keys and values than heads k of queries: query head i then uses
    head i // (k / g), as in Llama's and Qwen's files. No key or value is copied for it.

    It is written out instead of calling `jax.nn.dot_product_attention`, whose gradient takes 1.4
    times as long on CPU (docs/performance.md) and whose default is the same formula elsewhere. On
    NVIDIA's GPUs (Ampere and later) half-precision attention without positions and segments is
    cuDNN's, up to 1.8 times as fast.

    Args:
        query_positions: places in the sequence; without positions, queries and keys are taken to
            stand at 0, 1, 2, ... each.
        key_positions: given where `query_positions` is.
        query_segments: which of the sequences packed into a row each place belongs to; one
            sequence unless given.
        key_segments: given where `query_segments` is.
        bias: added to the logits of every row, float32; none unless given.
        scale: e^-0.5 unless given.

    Raises:
        ValueError: g does not divide k, or positions or segments came for one side only.
    """
    if query.shape[2] % key.shape[2]:
        raise UserError(
            f"expected heads of keys and values that divide the query's {query.shape[2]}, got "
            f"{key.shape[2]}"
        )
    positions = _both("positions", query_positions, key_positions)
    segments = _both("segments", query_segments, key_segments)
    is_plain = positions is None and segments is None and bias is None and scale is None
    if is_plain and fits_cudnn(query, key, value, is_causal):
        return jax.lax.platform_dependent(
            query,
            key,
            value,
            cuda=functools.partial(_cudnn, is_causal=is_causal),
            default=functools.partial(written_out, is_causal=is_causal),
        )
    return written_out(query, key, value, is_causal, positions, segments, bias=bias, scale=scale)


def fits_cudnn(query: Any, key: Any, value: Any, is_causal: bool) -> bool:
    """Whether cuDNN's attention can stand for ours: an NVIDIA GPU, and arrays of a form it takes.

    Args:
        query, key, value: arrays, or their shapes and types.
    """
    halves = (jnp.bfloat16, jnp.float16)
    size, (t, s) = query.shape[-1], (query.shape[1], key.shape[1])
    return (
        all(x.dtype == query.dtype for x in (key, value))
        and query.dtype in halves
        and size == value.shape[-1]
        and size % 8 == 0
        and size <= CUDNN_SIZE
        and min(t, s) > 1
        and not jax.export.is_symbolic_dim(query.shape[0])  # exported programs run elsewhere
        and (t == s or not is_causal)
        and _has_cudnn()
    )


@functools.cache
def _has_cudnn():
    """Whether this process computes on NVIDIA's GPUs that cuDNN's fused attention supports."""
    devices = jax.devices()
    if (
        devices[0].platform != "gpu"
        or "cuda" not in jax.extend.backend.get_backend().platform_version
    ):
        return False
    return all(float(device.compute_capability) >= CUDNN_CAPABILITY for device in devices)


def _cudnn(query, key, value, is_causal):
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=is_causal, implementation="cudnn"
    )


def written_out(
    query: Float[Array, "b t k e"],
    key: Float[Array, "b s g e"],
    value: Float[Array, "b s g e"],
    is_causal: bool,
    positions: tuple | None = None,
    segments: tuple | None = None,
    *,
    bias: Float[Array, "k t s"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b t k e"]:
    """`attention` as the same formula on every platform; positions and segments as `_both` has
    them."""
    options = is_causal, positions, segments, bias, scale
    if positions is None or value.dtype == jnp.float32 or jax.default_backend() != "cpu":
        return _formula(query, key, value, *options)
    # XLA on CPUs lacks some products of a cache in half precision (jax 0.10: "Unsupported element
    # type for DotThunk").
    return jax.lax.platform_dependent(
        query,
        key,
        value,
        cpu=lambda *x: _formula(*(jnp.float32(y) for y in x), *options).astype(value.dtype),
        default=lambda *x: _formula(*x, *options),
    )


def _formula(query, key, value, is_causal, positions, segments, bias, scale):
    if query.shape[2] != key.shape[2]:
        return _grouped(query, key, value, is_causal, positions, segments, bias, scale)
    logits = jnp.einsum("btke,bske->bkts", query, key, preferred_element_type=jnp.float32)
    logits = logits * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias
    weights = _softmax(logits, is_causal, positions, segments).astype(value.dtype)
    return einsum("bkts,bske->btke", weights, value)


def _grouped(query, key, value, is_causal, positions, segments, bias, scale):
    """Attention in which each head of keys and values serves a group of j query heads."""
    b, t, k, e = query.shape
    query = query.reshape(b, t, key.shape[2], -1, e)  # [b, t, g, j, e]
    logits = jnp.einsum("btgje,bsge->bgjts", query, key, preferred_element_type=jnp.float32)
    logits = logits * (e**-0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias.reshape(logits.shape[1:])
    weights = _softmax(logits, is_causal, positions, segments).astype(value.dtype)
    return einsum("bgjts,bsge->btgje", weights, value).reshape(b, t, k, e)


def _softmax(logits, is_causal, positions, segments):
    """Softmax of logits [b, ..., t, s] over the keys that each query sees, 0 where it sees none."""
    visible = _visible(logits.shape[-2:], is_causal, positions, segments)
    if visible is None:
        return jax.nn.softmax(logits, axis=-1)
    if visible.ndim == 3:  # [b, t, s], for all heads
        visible = jnp.expand_dims(visible, range(1, logits.ndim - 2))
    if positions is None:  # every query sees itself at least
        return jax.nn.softmax(jnp.where(visible, logits, -jnp.inf), axis=-1)
    weights = jax.nn.softmax(jnp.where(visible, logits, MASKED), axis=-1)
    return jnp.where(visible, weights, 0)


def _visible(
    shape: tuple[int, int], is_causal: bool, positions: tuple | None, segments: tuple | None
) -> Bool[Array, "*b t s"] | None:
    """Returns which keys each query sees (see `attention`), or None where all see all."""
    conditions = []
    if positions is not None:
        ours, theirs = positions
        conditions += [ours >= 0, theirs >= 0]
        conditions += [theirs <= ours] if is_causal else []
    elif is_causal:
        conditions.append(jnp.tril(jnp.ones(shape, bool)))
    if segments is not None:
        conditions.append(segments[0] == segments[1])
    visible = None
    for condition in conditions:
        visible = condition if visible is None else visible & condition
    return visible


def _both(name, of_queries, of_keys):
    """Positions or segments as (of queries [b, t, 1], of keys [b, 1, s]), or None."""
    if (of_queries is None) != (of_keys is None):
        raise UserError(f"expected {name} of both queries and keys, got those of one side only")
    return None if of_queries is None else (of_queries[:, :, None], of_keys[:, None, :])
