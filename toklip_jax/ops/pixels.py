"""Values of pixels: bytes, and floats in [-1, 1]; NumPy arrays on the host, JAX's on devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

Images = np.ndarray | jax.Array


def to_unit_range(images: Images) -> Float[Images, "*shape"]:
    """Returns images in [-1, 1], float32: uint8 as (u / 255 - 0.5) / 0.5, floats as they are.

    Each step is rounded to float32, as in the released models' preprocessing. The result is a NumPy
    array where `images` is one, else JAX's.
    """
    xp = np if isinstance(images, np.ndarray) else jnp
    if images.dtype == np.uint8:
        levels, half = np.float32(255), np.float32(0.5)
        return (images.astype(xp.float32) / levels - half) / half
    return images.astype(xp.float32)


def to_uint8(images: Float[Images, "*shape"]) -> UInt8[Images, "*shape"]:
    """Returns values in [-1, 1], clipped, as uint8; undoes `to_unit_range` exactly."""
    xp = np if isinstance(images, np.ndarray) else jnp
    values = xp.clip(images.astype(xp.float32), -1, 1)
    return xp.rint((values + 1) * 127.5).astype(xp.uint8)
