"""The entropy loss of sign codes, whose soft assignments are products over bits.

The codes are all e in {-1, 1}^c. The softmax over them of -|v - e|^2 / T is

    p(e) = prod_i sigmoid(4 e_i v_i / T),

so that nothing of size [n, 2^c] is needed.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from toklip_jax.losses.soft_assignment import LOG_EPS, TEMPERATURE

BLOCK_BITS = 14  # of the 16,384 codes taken at once, as products of 128 x 128 for each latent


def sign_entropy(
    latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
) -> Float[Array, ""]:
    """Returns E[H(p)] - H(E[p]) of soft assignments to all sign codes, nats.

    It is low when each latent is sure of its code and all codes are used alike: the loss of
    lookup-free quantisation (MAGVIT-v2, arXiv 2310.05737) as Open-MAGVIT2 has it, with both terms'
    weights at 1.

    Args:
        mask: rows whose latents count; all unless given.
    """
    of_latents, of_codebook = sign_entropies(latents, mask)
    return of_latents - of_codebook


def sign_entropies(
    latents: Float[Array, "b n c"],
    mask: Bool[Array, " b"] | None = None,
    block_bits: int = BLOCK_BITS,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns E[H(p)] and H(E[p]) of soft assignments to all sign codes, nats, float32.

    The first is a sum over bits, and exact. The second sums -q log(q + 1e-5), q = E[p], over blocks
    of codes; the backward pass computes each block again.

    Args:
        mask: rows whose latents count; all unless given.
        block_bits: 2^block_bits codes are held at once, and for each latent about
            2^(1 + block_bits / 2) numbers.
    """
    b, n, c = latents.shape
    weights = jnp.ones(b) if mask is None else mask.astype(jnp.float32)
    weights = jnp.repeat(weights, n) / jnp.maximum(jnp.sum(weights) * n, 1)
    log_odds = latents.reshape(-1, c).astype(jnp.float32) * (4 / TEMPERATURE)
    of_latents = jnp.sum(_binary_entropies(log_odds), axis=1)
    return jnp.sum(weights * of_latents), _entropy_of_mean(log_odds, weights, block_bits)


def _binary_entropies(log_odds):
    """The entropy of each bit, in a form without the difference of two large numbers."""
    size = jnp.abs(log_odds)
    return jnp.log1p(jnp.exp(-size)) + size * jax.nn.sigmoid(-size)


def _entropy_of_mean(log_odds, weights, block_bits):
    """H(E[p]): the codes of a block share their high bits and differ in the low and middle ones."""
    bits = log_odds.shape[1]
    held = min(block_bits, bits)
    low, middle, high = jnp.split(log_odds, (held // 2, held), axis=1)
    low, middle = _assignments(low), _assignments(middle)

    @jax.checkpoint  # else the means of all blocks would wait for the backward pass
    def entropy_of_block(number):
        signs = 2 * ((number >> jnp.arange(bits - held)) & 1) - 1
        of_high = weights * jnp.exp(jnp.sum(jax.nn.log_sigmoid(signs * high), axis=1))  # [n]
        mean = jnp.einsum("nm,nl->ml", middle * of_high[:, None], low, precision="highest")
        return -jnp.sum(mean * jnp.log(mean + LOG_EPS))

    return jnp.sum(jax.lax.map(entropy_of_block, jnp.arange(2 ** (bits - held))))


def _assignments(log_odds):
    """The probabilities of all codes of the given bits, a chain of outer products: [n, 2^bits]."""
    pairs = jnp.stack([jax.nn.sigmoid(-log_odds), jax.nn.sigmoid(log_odds)], axis=2)

    def multiply(lower, pair):
        return (pair[:, :, None] * lower[:, None]).reshape(len(lower), -1)

    return functools.reduce(multiply, jnp.unstack(pairs, axis=1), jnp.ones((len(pairs), 1)))
