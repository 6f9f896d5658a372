"""Values of pixels: bytes, and floats in [-1, 1]."""

import jax
import jax.numpy as jnp
from jaxtyping import Float


def to_unit_range(images: jax.Array) -> Float[jax.Array, "*shape"]:
    """Returns images in [-1, 1], float32: uint8 as (u / 255 - 0.5) / 0.5, floats as they are.

    Each step is rounded to float32, as in the released models' preprocessing.
    """
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) / 255 - 0.5) / 0.5
    return images.astype(jnp.float32)
