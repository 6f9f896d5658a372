"""Padded, packed and cached sequences give what each gives alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.cache import empty_cache
from toklip_jax.nn.config import REMATS, Compute, TransformerConfig
from toklip_jax.nn.layout import to_scanned, to_unrolled
from toklip_jax.nn.transformer import Stack

pytestmark = pytest.mark.usefixtures("highest_precision")

PLAIN, SCANNED = Compute(is_scanned=False), Compute(is_scanned=True)
FULL = TransformerConfig(8, 2, 2, 12)
CAUSAL = dataclasses.replace(FULL, is_causal=True)
QWEN = dataclasses.replace(
    CAUSAL,
    norm="rms",
    mlp="gated",
    activation="silu",
    num_kv_heads=1,
    projection="separate",
    has_qk_norm=True,
    positions="rotary",
)
LLAMAGEN = dataclasses.replace(CAUSAL, positions="rotary_2d", rotary_width=3, rotary_prefix=1)
M, N = 4, 9  # length of a sequence, and of a row that holds two
PACKED = np.array([[*range(M), *range(M), -1]]), np.array([[1] * M + [2] * M + [0]])
ATOL = 5e-6


@pytest.fixture(scope="module")
def rows():
    """Two sequences of M places, [1, m, d] each."""
    return list(jax.random.normal(jax.random.key(1), (2, 1, M, 8)))


@functools.cache
def params_of(config):
    shapes = jax.eval_shape(Stack(config, PLAIN).init, jax.random.key(0), jnp.zeros((1, 2, 8)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.3 * np.float32(rng.normal(size=leaf.shape)), shapes)[
        "params"
    ]


@functools.cache
def program(config, compute):
    """Value and gradient of the sum of sines of the outputs that count, with the outputs."""

    def total(params, x, positions, segments):
        out, _ = Stack(config, compute).apply({"params": params}, x, positions, segments)
        counts = jnp.ones(x.shape[:2]) if positions is None else positions >= 0
        return jnp.sum(jnp.sin(out) * counts[..., None]), out

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


def run(config, compute, x, positions=None, segments=None):
    params = params_of(config)
    params = to_scanned(params, jnp.stack) if compute.is_scanned else params
    (_, out), (grads, x_grad) = program(config, compute)(params, x, positions, segments)
    return out, x_grad, to_unrolled(grads) if compute.is_scanned else grads


def close(got, want, atol=ATOL):
    np.testing.assert_allclose(got, want, atol=atol * max(1, float(np.abs(want).max())))


def all_close(got, want):
    jax.tree.map(close, got, want)


def packed(rows):
    return jnp.concatenate([*rows, jnp.ones((1, 1, 8))], 1)


def test_a_packed_row_equals_its_sequences_in_value_and_gradient(rows):
    out, x_grad, grads = run(QWEN, SCANNED, packed(rows), *PACKED)
    alone = [run(QWEN, SCANNED, x) for x in rows]
    for i, (want, want_x, _) in enumerate(alone):
        close(out[:, i * M : (i + 1) * M], want)
        close(x_grad[:, i * M : (i + 1) * M], want_x)
    assert not np.asarray(x_grad[:, 2 * M :]).any()
    all_close(grads, jax.tree.map(jnp.add, alone[0][2], alone[1][2]))


@pytest.mark.parametrize("config", [FULL, QWEN, LLAMAGEN], ids=["full", "qwen", "llamagen"])
@pytest.mark.parametrize("before", [(0, 1), (N - M, 3)], ids=["right", "left"])
def test_padded_rows_equal_unpadded_ones_in_value_and_gradient(config, before, rows):
    out, x_grad, grads = run(config, SCANNED, *pad(rows, before))
    alone = [run(config, SCANNED, x) for x in rows]
    for i, (want, want_x, _) in enumerate(alone):
        real = slice(before[i], before[i] + M)
        close(out[i : i + 1, real], want)
        close(x_grad[i : i + 1, real], want_x)
    all_close(grads, jax.tree.map(jnp.add, alone[0][2], alone[1][2]))
    assert np.isfinite(out).all()


def pad(rows, before):
    """Rows of N places [b, N, d] with `before` of them in front, far from zero; their positions."""
    padded, positions = [], []
    for x, count in zip(rows, before, strict=True):
        sides = ((0, 0), (count, N - x.shape[1] - count))
        positions.append(np.pad(np.arange(x.shape[1])[None], sides, constant_values=-1))
        padded.append(np.pad(x, (*sides, (0, 0)), constant_values=7.0))
    return jnp.concatenate(padded), jnp.concatenate(positions)


@pytest.mark.parametrize(
    "compute",
    [Compute(remat=remat) for remat in REMATS[1:]]
    + [PLAIN, Compute(is_scanned=False, remat="full")],
    ids=str,
)
def test_scan_and_remat_keep_positions_and_segments(compute, rows):
    want, want_x, want_grads = run(QWEN, SCANNED, packed(rows), *PACKED)
    out, x_grad, grads = run(QWEN, compute, packed(rows), *PACKED)
    close(out, want)
    close(x_grad, want_x)
    all_close(grads, want_grads)


@pytest.mark.parametrize(
    ("config", "compute", "is_stacked"),
    [(QWEN, PLAIN, False), (QWEN, PLAIN, True), (QWEN, SCANNED, True), (LLAMAGEN, SCANNED, True)],
    ids=["qwen unrolled", "qwen unrolled, one array", "qwen scanned", "llamagen scanned"],
)
def test_a_prefix_and_then_single_steps_equal_the_whole(config, compute, is_stacked):
    """With as much room as the prefix needs at first, and the rest added later."""
    x = jax.random.normal(jax.random.key(3), (2, N, 8))
    want, _, _ = run(config, SCANNED, x)
    params = params_of(config)
    variables = {"params": to_scanned(params, jnp.stack) if compute.is_scanned else params}
    stack = Stack(config, compute)

    @jax.jit
    def cached(x):
        cache = empty_cache(config, 2, N, "float32", is_stacked).resized(M)
        start, cache = stack.apply(variables, x[:, :M], cache=cache)
        cache = cache.resized(N)

        def step(cache, x):
            out, cache = stack.apply(variables, x[:, None], cache=cache)
            return cache, out[:, 0]

        cache, rest = jax.lax.scan(step, cache, x[:, M:].swapaxes(0, 1))
        return jnp.concatenate([start, rest.swapaxes(0, 1)], 1), cache

    out, cache = cached(x)
    close(out, want, 1e-5)
    assert int(cache.length) == N
    np.testing.assert_array_equal(cache.positions, np.tile(np.arange(N), (2, 1)))


@jax.jit
def extend(x, positions, segments, cache):
    return Stack(QWEN, PLAIN).apply({"params": params_of(QWEN)}, x, positions, segments, cache)


def test_padded_prompts_go_on_as_unpadded_ones(rows):
    """One prompt is padded on the left and one on the right; two cached steps follow each."""
    following = jax.random.normal(jax.random.key(4), (2, 2, 8))
    cache = empty_cache(QWEN, 2, N + 2, "float32")
    x, positions = pad(rows, (N - M, 0))
    _, cache = extend(x, positions, None, cache)
    outs = []
    for i in range(2):
        out, cache = extend(following[:, i : i + 1], jnp.full((2, 1), M + i), None, cache)
        outs.append(out)
    whole = jnp.concatenate([jnp.concatenate(rows), following], 1)
    want, _, _ = run(QWEN, SCANNED, whole)
    close(jnp.concatenate(outs, 1), want[:, M:], 1e-5)


def test_a_cached_step_sees_its_own_segment_only(rows):
    cache = empty_cache(QWEN, 1, N, "float32")
    x, (positions, segments) = packed(rows), PACKED
    last = slice(2 * M - 1, 2 * M)
    _, cache = extend(
        x[:, : last.start], positions[:, : last.start], segments[:, : last.start], cache
    )
    out, _ = extend(x[:, last], positions[:, last], segments[:, last], cache)
    want, _, _ = run(QWEN, SCANNED, rows[1])
    close(out, want[:, -1:], 1e-5)


def test_a_cache_that_is_too_small_is_refused(rows):
    unrolled = empty_cache(QWEN, 1, M, "float32", is_scanned=False)
    with pytest.raises(ValueError, match="one array for all layers, which are scanned"):
        Stack(QWEN, SCANNED).apply({}, rows[0], cache=unrolled)
    cache = empty_cache(QWEN, 1, M - 1, "float32")
    with pytest.raises(ValueError, match=r"at most 3 more places in a cache of 3, got 4"):
        extend(rows[0], None, None, cache)
    positions = jnp.arange(M - 1)[None]
    cache = cache.extend(positions, jnp.zeros_like(positions))
    with pytest.raises(ValueError, match="at most 0 more places"):
        cache.extend(positions[:, :1], positions[:, :1])


def test_a_cache_has_one_shape_and_the_type_asked_for():
    cache = jax.eval_shape(lambda: empty_cache(QWEN, 3, 5, "bfloat16"))
    assert cache.keys.shape == cache.values.shape == (2, 3, 1, 5, 4)
    assert cache.keys.dtype == jnp.bfloat16
    assert cache.positions.shape == (3, 5)
