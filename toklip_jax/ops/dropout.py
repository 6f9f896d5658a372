"""Dropout with an explicit random key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout(x: Float[Array, "*b"], rate: float, key: jax.Array | None) -> Float[Array, "*b"]:
    """Sets a share `rate` of the elements to 0 and scales the others by 1 / (1 - rate).

    Args:
        key: the key of the draw; None returns `x`, as outside training.
    """
    if key is None or rate == 0:
        return x
    is_kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(is_kept, x / (1 - rate), 0)
