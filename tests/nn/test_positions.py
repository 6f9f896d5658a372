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
LEARNED = TransformerConfig(16, 2, 4, 24, is_causal=True)
QWEN = dataclasses.replace(
    LEARNED,
    norm="rms",
    mlp="gated",
    activation="silu",
    num_kv_heads=2,
    projection="separate",
    has_qk_norm=True,
    positions="rotary",
)
LLAMAGEN = dataclasses.replace(LEARNED, positions="rotary_2d", rotary_width=3, rotary_prefix=1)
FULL = dataclasses.replace(LEARNED, is_causal=False)
A, B, N = 3, 4, 8  # lengths of two sequences, and of the row that holds both
PACKED = jnp.array([[*range(A), *range(B), -1]]), jnp.array([[1] * A + [2] * B + [0]])
ATOL = 2e-6


@pytest.fixture(scope="module")
def rows():
    """Sequences of A and B places, [1, n, d] each."""
    keys = jax.random.split(jax.random.key(1), 2)
    return [jax.random.normal(key, (1, n, 16)) for key, n in zip(keys, (A, B), strict=True)]


@functools.cache
def params_of(config):
    return jax.jit(Stack(config, PLAIN).init)(jax.random.key(0), jnp.zeros((1, 2, 16)))["params"]


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
    return jnp.concatenate([*rows, jnp.ones((1, N - A - B, 16))], 1)


@pytest.mark.parametrize("config", [LEARNED, QWEN], ids=["learned", "qwen"])
def test_a_packed_row_equals_its_sequences_in_value_and_gradient(config, rows):
    out, x_grad, grads = run(config, PLAIN, packed(rows), *PACKED)
    (first, first_x, first_grads), (second, second_x, second_grads) = (
        run(config, PLAIN, x) for x in rows
    )
    close(out[:, :A], first)
    close(out[:, A : A + B], second)
    close(x_grad[:, :A], first_x)
    close(x_grad[:, A : A + B], second_x)
    assert not np.asarray(x_grad[:, A + B :]).any()
    all_close(grads, jax.tree.map(jnp.add, first_grads, second_grads))


@pytest.mark.parametrize(
    "config", [LEARNED, FULL, QWEN, LLAMAGEN], ids=["learned", "full", "qwen", "llamagen"]
)
def test_padded_rows_equal_unpadded_ones_in_value_and_gradient(config, rows):
    wants = [run(config, PLAIN, x) for x in rows]
    for is_left in (True, False):
        out, x_grad, grads = run(config, PLAIN, *pad(rows, is_left))
        for i, (want, want_x, _) in enumerate(wants):
            n = want.shape[1]
            real = slice(N - n, N) if is_left else slice(0, n)
            close(out[i : i + 1, real], want)
            close(x_grad[i : i + 1, real], want_x)
        all_close(grads, jax.tree.map(jnp.add, wants[0][2], wants[1][2]))
        assert np.isfinite(out).all()


def pad(rows, is_left):
    """Rows of N places [b, N, d], the padding far from zero, and their positions."""
    padded, positions = [], []
    for x in rows:
        n = x.shape[1]
        before = N - n if is_left else 0
        sides = ((0, 0), (before, N - n - before))
        positions.append(jnp.pad(jnp.arange(n)[None], sides, constant_values=-1))
        padded.append(jnp.pad(x, (*sides, (0, 0)), constant_values=7.0))
    return jnp.concatenate(padded), jnp.concatenate(positions)


@pytest.mark.parametrize(
    "compute",
    [*(Compute(remat=remat) for remat in REMATS), Compute(is_scanned=False, remat="full")],
    ids=str,
)
def test_scan_and_remat_keep_positions_and_segments(compute, rows):
    want, want_x, want_grads = run(QWEN, PLAIN, packed(rows), *PACKED)
    out, x_grad, grads = run(QWEN, compute, packed(rows), *PACKED)
    close(out, want)
    close(x_grad, want_x)
    all_close(grads, want_grads)


@pytest.mark.parametrize(
    ("config", "compute"),
    [(QWEN, PLAIN), (QWEN, SCANNED), (LLAMAGEN, SCANNED)],
    ids=["qwen unrolled", "qwen scanned", "llamagen scanned"],
)
def test_a_prefix_and_then_single_steps_equal_the_whole(config, compute):
    x = jax.random.normal(jax.random.key(3), (2, N, 16))
    want, _, _ = run(config, PLAIN, x)
    params = params_of(config)
    variables = {"params": to_scanned(params, jnp.stack) if compute.is_scanned else params}
    stack = Stack(config, compute)

    @jax.jit
    def cached(x):
        cache = empty_cache(config, 2, N, "float32")
        start, cache = stack.apply(variables, x[:, :A], cache=cache)

        def step(cache, x):
            out, cache = stack.apply(variables, x[:, None], cache=cache)
            return cache, out[:, 0]

        cache, rest = jax.lax.scan(step, cache, x[:, A:].swapaxes(0, 1))
        return jnp.concatenate([start, rest.swapaxes(0, 1)], 1), cache

    out, cache = cached(x)
    close(out, want, 1e-5)
    assert int(cache.length) == N
    np.testing.assert_array_equal(cache.positions, np.tile(np.arange(N), (2, 1)))


@jax.jit
def extend(x, positions, segments, cache):
    return Stack(QWEN, PLAIN).apply({"params": params_of(QWEN)}, x, positions, segments, cache)


@pytest.mark.parametrize("is_left", [True, False])
def test_a_padded_prompt_goes_on_as_the_unpadded_one(is_left, rows):
    """Two prompts of different lengths in one batch, each followed by two cached steps."""
    following = jax.random.normal(jax.random.key(4), (2, 2, 16))
    cache = empty_cache(QWEN, 2, N + 2, "float32")
    x, positions = pad(rows, is_left)
    _, cache = extend(x, positions, None, cache)
    outs = []
    for i in range(2):
        out, cache = extend(following[:, i : i + 1], jnp.array([[A + i], [B + i]]), None, cache)
        outs.append(out)
    for row in range(2):
        whole = jnp.concatenate([rows[row], following[row : row + 1]], 1)
        want, _, _ = run(QWEN, PLAIN, whole)
        close(jnp.concatenate(outs, 1)[row], want[0, -2:], 1e-5)


def test_a_cached_step_sees_its_own_segment_only(rows):
    cache = empty_cache(QWEN, 1, N, "float32")
    x, (positions, segments) = packed(rows), PACKED
    _, cache = extend(x[:, : A + B - 1], positions[:, : A + B - 1], segments[:, : A + B - 1], cache)
    last = slice(A + B - 1, A + B)
    out, _ = extend(x[:, last], positions[:, last], segments[:, last], cache)
    want, _, _ = run(QWEN, PLAIN, rows[1])
    close(out, want[:, -1:], 1e-5)


def test_a_cache_that_is_too_small_is_refused(rows):
    cache = empty_cache(QWEN, 1, A, "float32")
    with pytest.raises(ValueError, match=r"at most 3 more places in a cache of 3, got 4"):
        extend(rows[1], None, None, cache)
    positions = jnp.arange(A)[None]
    cache = cache.extend(positions, jnp.zeros_like(positions))
    with pytest.raises(ValueError, match="at most 0 more places"):
        cache.extend(positions[:, :1], positions[:, :1])


def test_a_cache_has_one_shape_and_the_type_asked_for():
    cache = jax.eval_shape(lambda: empty_cache(QWEN, 3, 5, "bfloat16"))
    assert cache.keys.shape == cache.values.shape == (2, 3, 5, 2, 4)
    assert cache.keys.dtype == jnp.bfloat16
    assert cache.positions.shape == (3, 5)
