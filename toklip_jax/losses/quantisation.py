"""Losses of vector quantisation, computed in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from toklip_jax.losses.soft_assignment import LOG_EPS, TEMPERATURE, blockwise_entropy
from toklip_jax.ops.nearest import squared_distances

MAX_SCORES = 2**26  # distances held at once (256 MiB in float32); more are taken in blocks


def codebook_losses(
    latents: Float[Array, "b *n c"], code_vectors: Float[Array, "b *n c"]
) -> Float[Array, " b"]:
    """Mean |code - sg(latent)|^2 of each row's entries: pulls codes to latents (VQ-VAE)."""
    return _row_means((code_vectors - jax.lax.stop_gradient(latents)) ** 2)


def commitment_losses(
    latents: Float[Array, "b *n c"], code_vectors: Float[Array, "b *n c"]
) -> Float[Array, " b"]:
    """Mean |sg(code) - latent|^2 of each row's entries: pulls latents to codes.

    LlamaGen weighs it 0.25.
    """
    return _row_means((jax.lax.stop_gradient(code_vectors) - latents) ** 2)


def entropy_loss(
    latents: Float[Array, "b n c"],
    codebook: Float[Array, "z c"],
    mask: Bool[Array, " b"] | None = None,
    max_scores: int = MAX_SCORES,
) -> Float[Array, ""]:
    """E[H(p)] - H(E[p]) of soft assignments p = softmax(-|v - e|^2 / 0.01), nats.

    Low when each latent is sure of its code and all codes are used alike. The epsilons are
    LlamaGen's. The mean is over all latents, so that it compares rows.

    Args:
        mask: rows whose latents count; all unless given.
        max_scores: distances that are held at once; with more, rows are taken in blocks, or codes
            where a row alone has more, and the backward pass computes them again.
    """
    b, n, _ = latents.shape
    if n * len(codebook) > max_scores:
        return blockwise_entropy(latents, codebook, mask, max_scores=max_scores)
    count = jnp.float32(b * n) if mask is None else jnp.sum(mask) * jnp.float32(n)
    count = jnp.maximum(count, 1)
    weights = jnp.ones(b) if mask is None else mask.astype(jnp.float32)
    block = max_scores // (n * len(codebook))
    if b <= block:
        sums = _assignment_sums(latents, codebook, None if mask is None else weights)
    else:
        sums = _in_blocks(latents, codebook, weights, block)
    mean, mean_entropy = sums[0] / count, sums[1] / count
    return mean_entropy + jnp.sum(mean * jnp.log(mean + LOG_EPS))


def _in_blocks(latents, codebook, weights, block):
    b = len(latents)
    padding = -b % block
    latents = jnp.pad(latents, ((0, padding), (0, 0), (0, 0)))
    weights = jnp.pad(weights, (0, padding))
    blocks = latents.reshape(-1, block, *latents.shape[1:]), weights.reshape(-1, block)
    sums_of = jax.checkpoint(lambda x, w: _assignment_sums(x, codebook, w))

    def add(total, one):
        return jax.tree.map(jnp.add, total, sums_of(*one)), None

    zeros = jnp.zeros(len(codebook)), jnp.float32(0)
    return jax.lax.scan(add, zeros, blocks)[0]


def _assignment_sums(latents, codebook, weights):
    """(sum of the assignments [z], sum of their entropies) over all latents of weighted rows."""
    flat = latents.reshape(-1, latents.shape[-1])
    affinity = -squared_distances(flat, codebook) / TEMPERATURE
    probabilities = jax.nn.softmax(affinity, axis=-1)
    log_probabilities = jax.nn.log_softmax(affinity + LOG_EPS, axis=-1)
    entropies = -jnp.sum(probabilities * log_probabilities, axis=-1)
    if weights is not None:
        repeated = jnp.repeat(weights, latents.shape[1])
        probabilities, entropies = probabilities * repeated[:, None], entropies * repeated
    return jnp.sum(probabilities, axis=0), jnp.sum(entropies)


def _row_means(values):
    return jnp.mean(values.reshape(len(values), -1), axis=1)
