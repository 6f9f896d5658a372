"""Soft assignments of latents to all codes, p = softmax(scores), a block of codes at a time.

With large codebooks the scores of one image's latents would take a gigabyte. Here nothing of size
[n, z] is kept: scores are computed block by block, and again in the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOG_EPS = 1e-5  # keeps log of an unused code's mean probability finite, as LlamaGen and IBQ have it
TEMPERATURE = 0.01  # of the soft assignment in the entropy loss (LlamaGen, IBQ)
MAX_SCORES = 2**22  # scores held at once (16 MiB in float32)


def soft_codes(
    latents: Float[Array, "n c"], codebook: Float[Array, "z c"], max_scores: int = MAX_SCORES
) -> Float[Array, "n c"]:
    """Returns sum_z p_z e_z, p = softmax(v . e_z), float32: attention of latents to codes.

    The gradient reaches the latents and the codebook through p alone, as IBQ's straight-through
    estimator has it: the value of the sum is replaced by the chosen code.

    Args:
        max_scores: scores that are held at once.
    """
    return _soft_codes(latents, codebook, _block_size(latents, codebook, max_scores))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _soft_codes(latents, codebook, block):
    return _soft_codes_forward(latents, codebook, block)[0]


def _soft_codes_forward(latents, codebook, block):
    def add(total, codes, scores):
        greatest, mass, weighted = total
        new = jnp.maximum(greatest, jnp.max(scores, axis=1))
        kept, p = jnp.exp(greatest - new), jnp.exp(scores - new[:, None])
        mass = mass * kept + jnp.sum(p, axis=1)
        return new, mass, weighted * kept[:, None] + _product("nz,zc->nc", p, codes)

    n = len(latents)
    start = jnp.full(n, -jnp.inf), jnp.zeros(n), jnp.zeros(latents.shape)
    greatest, mass, weighted = _over_blocks(add, start, latents, codebook, block, inner_products)
    soft = weighted / mass[:, None]
    return soft, (latents, codebook, greatest + jnp.log(mass), soft)


def _soft_codes_backward(block, kept, gradient):
    latents, codebook, log_mass, soft = kept
    mean = jnp.sum(gradient * soft, axis=1, keepdims=True)

    def scores_gradient(codes, scores, _):
        p = jnp.exp(scores - log_mass[:, None])
        return p * (_product("nc,zc->nz", gradient, codes) - mean)

    return _pull_back(scores_gradient, latents, codebook, block, inner_products)


_soft_codes.defvjp(_soft_codes_forward, _soft_codes_backward)


def blockwise_entropy(
    latents: Float[Array, "b n c"],
    codebook: Float[Array, "z c"],
    mask: Bool[Array, " b"] | None = None,
    metric: str = "euclidean",
    max_scores: int = MAX_SCORES,
) -> Float[Array, ""]:
    """E[H(p)] - H(E[p]) of soft assignments p = softmax(scores / 0.01), nats.

    Low when each latent is sure of its code and all codes are used alike. The mean is over all
    latents of the rows that count.

    Args:
        mask: rows whose latents count; all unless given.
        metric: "inner_product" scores by v . e, "euclidean" by -|v - e|^2.
        max_scores: scores that are held at once.
    """
    b, n, c = latents.shape
    weights = jnp.ones(b) if mask is None else mask.astype(jnp.float32)
    weights = jnp.repeat(weights, n) / jnp.maximum(jnp.sum(weights) * n, 1)
    flat = latents.reshape(-1, c).astype(jnp.float32)
    block = _block_size(flat, codebook, max_scores)
    return _entropy(flat, codebook, weights, SCORES[metric], block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _entropy(latents, codebook, weights, scores_of, block):
    return _entropy_forward(latents, codebook, weights, scores_of, block)[0]


def _entropy_forward(latents, codebook, weights, scores_of, block):
    def add(total, _, scores):
        greatest, mass, weighted = total
        new = jnp.maximum(greatest, jnp.max(scores, axis=1))
        kept, p = jnp.exp(greatest - new), jnp.exp(scores - new[:, None])
        finite = jnp.where(jnp.isfinite(scores), scores, 0)
        return new, mass * kept + jnp.sum(p, axis=1), weighted * kept + jnp.sum(p * finite, axis=1)

    zeros = jnp.zeros(len(latents))
    start = zeros - jnp.inf, zeros, zeros
    greatest, mass, weighted = _over_blocks(add, start, latents, codebook, block, scores_of)
    log_mass, mean_scores = greatest + jnp.log(mass), weighted / mass
    entropies = log_mass - mean_scores

    def use_of(_, scores):
        return jnp.sum(weights[:, None] * jnp.exp(scores - log_mass[:, None]), axis=0)

    use = _of_codes(use_of, latents, codebook, block, scores_of)  # E[p], [z]
    loss = jnp.sum(weights * entropies) + jnp.sum(use * jnp.log(use + LOG_EPS))
    return loss, (latents, codebook, weights, log_mass, mean_scores, use)


def _entropy_backward(scores_of, block, kept, gradient):
    latents, codebook, weights, log_mass, mean_scores, use = kept
    # Of the sum of E[p] log(E[p] + eps) with respect to E[p].
    pull = jnp.log(use + LOG_EPS) + use / (use + LOG_EPS)

    def add(total, _, scores, pull):
        return total + _product("nz,z->n", jnp.exp(scores - log_mass[:, None]), pull)

    start = jnp.zeros(len(latents))
    mean_pull = _over_blocks(add, start, latents, codebook, block, scores_of, pull)

    def scores_gradient(_, scores, pull):
        p = jnp.exp(scores - log_mass[:, None])
        finite = jnp.where(jnp.isfinite(scores), scores, 0)
        of_entropy = mean_scores[:, None] - finite
        return gradient * weights[:, None] * p * (of_entropy + pull[None] - mean_pull[:, None])

    of_latents, of_codebook = _pull_back(scores_gradient, latents, codebook, block, scores_of, pull)
    return of_latents, of_codebook, None


_entropy.defvjp(_entropy_forward, _entropy_backward)


def inner_products(latents: Float[Array, "n c"], codes: Float[Array, "z c"]) -> Float[Array, "n z"]:
    """Returns v . e of every latent and code."""
    return _product("nc,zc->nz", latents, codes)


def _inner_products_over_temperature(latents, codes):
    return inner_products(latents, codes) / TEMPERATURE


def _distances_over_temperature(latents, codes):
    squares = jnp.sum(latents**2, axis=1, keepdims=True) + jnp.sum(codes**2, axis=1)
    return (2 * inner_products(latents, codes) - squares) / TEMPERATURE


SCORES: dict[str, Callable[[Array, Array], Array]] = {
    "inner_product": _inner_products_over_temperature,
    "euclidean": _distances_over_temperature,
}


def _block_size(latents, codebook, max_scores):
    """Codes at a time: a power of two, so that codebooks of as many codes need no padded copy."""
    most = max(1, max_scores // max(len(latents), 1))
    return min(len(codebook), 2 ** (most.bit_length() - 1))


def _product(axes, left, right):
    return jnp.einsum(axes, left, right, precision="highest")


def _blocks(codebook, block, *of_codes):
    """Codes in blocks, the last padded, with whether a code is real: [i, block, ...]."""
    padding = -len(codebook) % block
    is_real = jnp.arange(len(codebook) + padding) < len(codebook)
    padded = [
        jnp.pad(x.astype(jnp.float32), ((0, padding), *((0, 0),) * (x.ndim - 1)))
        for x in (codebook, *of_codes)
    ]
    return jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), (is_real, *padded))


def _over_blocks(add: Callable, start: Any, latents, codebook, block, scores_of, *of_codes) -> Any:
    """Folds `add(total, codes, scores, *of_codes)` over blocks; padded codes score -inf."""

    def step(total, one):
        is_real, codes, *rest = one
        scores = jnp.where(is_real, scores_of(latents, codes), -jnp.inf)
        return add(total, codes, scores, *rest), None

    return jax.lax.scan(step, start, _blocks(codebook, block, *of_codes))[0]


def _of_codes(function: Callable, latents, codebook, block, scores_of) -> Array:
    """Returns `function(codes, scores)` of every block, joined along the codes."""

    def step(_, one):
        is_real, codes = one
        scores = jnp.where(is_real, scores_of(latents, codes), -jnp.inf)
        return None, function(codes, scores)

    results = jax.lax.scan(step, None, _blocks(codebook, block))[1]
    return results.reshape(-1, *results.shape[2:])[: len(codebook)]


def _pull_back(scores_gradient: Callable, latents, codebook, block, scores_of, *of_codes) -> Any:
    """Returns the gradients of latents and codebook from that of each block's scores."""

    def step(total, one):
        is_real, codes, *rest = one
        scores, vjp = jax.vjp(scores_of, latents, codes)
        scores = jnp.where(is_real, scores, -jnp.inf)
        given = scores_gradient(codes, scores, *(rest or (None,)))
        of_latents, of_codes = vjp(jnp.where(is_real, given, 0))
        return total + of_latents, of_codes

    start = jnp.zeros(latents.shape)
    of_latents, of_codes = jax.lax.scan(step, start, _blocks(codebook, block, *of_codes))
    return of_latents, of_codes.reshape(-1, codebook.shape[1])[: len(codebook)]
