"""Soft assignments to all codes, block by block, equal the plain forms that hold all scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.losses.quantisation import entropy_loss
from toklip_jax.losses.soft_assignment import (
    LOG_EPS,
    TEMPERATURE,
    blockwise_entropy,
    inner_products,
    soft_codes,
)
from toklip_jax.ops.nearest import squared_distances

B, N, Z, C = 3, 5, 37, 8
# Scores held at once, of 15 latents: one code at a time, a few with a ragged last block, all.
MOST = [1, 15 * 4, 15 * 10, 15 * Z, 2**22]
METRICS = ("euclidean", "inner_product")


@pytest.fixture(autouse=True)
def _exact(highest_precision):
    pass


@functools.cache
def drawn():
    """Latents and codes that are near one another, as in training: assignments are not one-hot."""
    keys = jax.random.split(jax.random.key(0), 3)
    codes = 0.1 * jax.random.normal(keys[0], (Z, C))
    latents = 0.1 * jax.random.normal(keys[1], (B, N, C))
    return latents, codes, jax.random.normal(keys[2], (B * N, C))


def plain_soft_codes(latents, codebook):
    return jax.nn.softmax(latents @ codebook.T) @ jax.lax.stop_gradient(codebook)


def plain_scores(latents, codebook, metric):
    flat = latents.reshape(-1, latents.shape[-1])
    if metric == "inner_product":
        return flat @ codebook.T / TEMPERATURE
    return -squared_distances(flat, codebook) / TEMPERATURE


def plain_entropy(latents, codebook, mask=None, metric="euclidean"):
    p = jax.nn.softmax(plain_scores(latents, codebook, metric))
    entropies = -jnp.sum(jax.scipy.special.xlogy(p, p), axis=1)
    rows = jnp.ones(len(latents)) if mask is None else mask.astype(jnp.float32)
    weights = jnp.repeat(rows, latents.shape[1])
    weights = weights / jnp.maximum(weights.sum(), 1)
    mean = weights @ p
    return weights @ entropies + jnp.sum(mean * jnp.log(mean + LOG_EPS))


def same(got, want, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), got, want)


@pytest.mark.parametrize("max_scores", MOST)
@pytest.mark.parametrize("scale", [1, 100])
def test_soft_codes_and_their_gradients_equal_the_plain_form(max_scores, scale):
    latents, codes, pull = drawn()
    latents = scale * latents.reshape(-1, C)

    def of(function):
        return jax.value_and_grad(lambda x, e: jnp.sum(pull * function(x, e)), (0, 1))

    blockwise = functools.partial(soft_codes, max_scores=max_scores)
    np.testing.assert_allclose(
        blockwise(latents, codes), plain_soft_codes(latents, codes), atol=1e-6
    )
    got, want = (jax.jit(of(f))(latents, codes) for f in (blockwise, plain_soft_codes))
    assert max(float(jnp.abs(x).max()) for x in want[1]) > 1e-2
    same(got, want, 1e-5)


@pytest.mark.parametrize("max_scores", MOST)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mask", [None, [True, False, True], [False] * 3])
def test_entropies_and_their_gradients_equal_the_plain_form(max_scores, metric, mask):
    latents, codes, _ = drawn()
    mask = None if mask is None else jnp.asarray(mask)
    blockwise = functools.partial(blockwise_entropy, max_scores=max_scores)
    got, want = (
        jax.jit(jax.value_and_grad(functools.partial(f, mask=mask, metric=metric), (0, 1)))(
            latents, codes
        )
        for f in (blockwise, plain_entropy)
    )
    has_rows = mask is None or mask.any()
    assert (float(jnp.abs(want[1][0]).max()) > 1e-2) == has_rows
    same(got, want, 1e-5)


def test_the_euclidean_entropy_is_the_loss_that_holds_all_scores():
    latents, codes, _ = drawn()
    for mask in (None, jnp.asarray([True, True, False])):
        np.testing.assert_allclose(
            blockwise_entropy(latents, codes, mask, max_scores=64),
            entropy_loss(latents, codes, mask),
            rtol=1e-4,
        )


@pytest.mark.parametrize("mask", [None, [True, True, False]])
def test_codes_are_taken_in_blocks_where_a_row_alone_has_too_many_scores(mask):
    latents, codes, _ = drawn()
    mask = None if mask is None else jnp.asarray(mask)
    got, want = (
        jax.value_and_grad(entropy_loss, (0, 1))(latents, codes, mask, max_scores)
        for max_scores in (N * Z - 1, 2**26)
    )
    same(got, want, 1e-5)


def test_rows_that_do_not_count_change_nothing():
    latents, codes, _ = drawn()
    mask = jnp.asarray([True, False, True])
    other = latents.at[1].set(7.0)
    for metric in METRICS:
        loss = functools.partial(blockwise_entropy, mask=mask, metric=metric, max_scores=64)
        np.testing.assert_array_equal(loss(latents, codes), loss(other, codes))
        gradient = jax.grad(loss)(latents, codes)
        np.testing.assert_array_equal(gradient[1], 0)


def test_scores_far_apart_stay_finite():
    """A softmax whose exponents would overflow, or lose every code but one."""
    latents, codes, pull = drawn()
    latents = 1e4 * latents
    for metric in METRICS:
        loss = functools.partial(blockwise_entropy, metric=metric, max_scores=64)
        found = jax.value_and_grad(loss, (0, 1))(latents, codes)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    flat = latents.reshape(-1, C)
    soft = soft_codes(flat, codes, max_scores=64)
    best = jnp.argmax(inner_products(flat, codes), axis=1)
    np.testing.assert_allclose(soft, codes[best], atol=1e-3)
    found = jax.grad(lambda x, e: jnp.sum(pull * soft_codes(x, e, max_scores=64)), (0, 1))
    assert all(np.isfinite(x).all() for x in found(flat, codes))


MANY, CODES, WIDE = 2048, 65_536, 32  # of which all scores would be 512 MiB
LIMIT = 96 * 2**20  # bytes beside arguments and results: some copies of a block of 16 MiB


def losses(latents, codebook):
    flat = latents.reshape(-1, WIDE)
    soft = soft_codes(flat, codebook)
    entropies = [blockwise_entropy(latents, codebook, metric=metric) for metric in METRICS]
    return jnp.sum(soft) + sum(entropies)


@pytest.mark.parametrize("codes", [CODES, CODES - 777])
def test_no_matrix_of_all_scores_is_held_forward_or_backward(codes):
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, MANY // 8, WIDE), (codes, WIDE))
    ]
    compiled = jax.jit(jax.value_and_grad(losses, (0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < LIMIT
    text = compiled.as_text()
    for rows in (MANY, f"8,{MANY // 8}"):
        assert f"[{rows},{codes}]" not in text
        assert f"[{codes},{rows}]" not in text
