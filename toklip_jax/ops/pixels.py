"""Values of pixels: bytes, and floats in [-1, 1]; NumPy arrays on the host, JAX's on devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Images = np.ndarray | jax.Array


def to_unit_range(images: Images) -> Float[Images, "*shape"]:
    """Returns images in [-1, 1], float32: uint8 as (u / 255 - 0.5) / 0.5, floats as they are.

    The result is a NumPy array where `images` is one, else JAX's. NumPy rounds each step to
    float32, as the released models' preprocessing does; XLA divides by multiplying with the
    reciprocal, which changes the last bit of some values (by at most 1.2e-7).
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


def space_to_depth(images: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Folds patch x patch pixels into channels; `depth_to_space` unfolds them."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, c * patch**2)


def depth_to_space(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Unfolds channels, in the order (row, column, channel), into patch x patch pixels."""
    b, h, w, c = x.shape
    c //= patch**2
    x = x.reshape(b, h, w, patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, c)
