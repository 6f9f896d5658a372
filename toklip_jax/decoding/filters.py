"""What sampling does to logits: guidance, temperature, top-k and top-p, as LlamaGen has them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOWEST_TEMPERATURE = 1e-5  # LlamaGen's; 0 would divide by zero


def guide(
    conditional: Float[Array, "*b v"], unconditional: Float[Array, "*b v"], scale: float | int
) -> Float[Array, "*b v"]:
    """Returns logits under classifier-free guidance (arXiv 2207.12598): u + scale (c - u)."""
    return unconditional + (conditional - unconditional) * scale


def filter_logits(
    logits: Float[Array, "*b v"],
    temperature: float | int = 1.0,
    top_k: int = 0,
    top_p: float | int = 1.0,
) -> Float[Array, "*b v"]:
    """Returns logits divided by the temperature, with -inf for values that may not be drawn.

    Args:
        temperature: at least 1e-5 is used.
        top_k: the number of values kept, and all that tie with the last of them; 0 keeps all.
        top_p: keeps the most probable values until their probabilities, after top-k, sum to more
            than this, the one that passes it included; 1 keeps all, 0 the most probable.
    """
    logits = logits.astype(jnp.float32) / max(temperature, LOWEST_TEMPERATURE)
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        logits = jnp.where(_is_in_nucleus(logits, top_p), logits, -jnp.inf)
    return logits


def _is_in_nucleus(logits, top_p):
    """Which values are kept by top-p; among equal ones, those of lower index come first."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    sums = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
    before = jnp.pad(sums[..., :-1], [(0, 0)] * (sums.ndim - 1) + [(1, 0)])
    is_kept = (before <= top_p).at[..., 0].set(True)
    return jnp.put_along_axis(jnp.zeros_like(is_kept), order, is_kept, axis=-1, inplace=False)
