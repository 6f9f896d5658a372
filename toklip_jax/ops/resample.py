"""Resampling of images and of learned position tables."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def resize_images(
    images: Float[Array, "b h w c"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Bilinear, half-pixel centres, no antialiasing: torch's `interpolate(mode="bilinear")`.

    The PyTorch recipe applies it where student and teacher take different image sizes.
    """
    b, _, _, c = images.shape
    return jax.image.resize(images, (b, height, width, c), "linear", antialias=False)


def resample_positions(table: Float[Array, "n d"], size: int) -> Float[Array, "m d"]:
    """Resamples a square table of learned positions to `size` x `size` positions, in float32.

    Antialiased bicubic (Keys, a = -0.5), as timm resamples such tables. Row-major on both sides.

    Raises:
        ValueError: the table is not square.
    """
    n, d = table.shape
    side = math.isqrt(n)
    if side * side != n:
        raise ValueError(f"expected a square position table, got {n} positions")
    if side == size:
        return table
    grid = table.astype(jnp.float32).reshape(side, side, d)
    grid = jax.image.resize(grid, (size, size, d), "cubic", antialias=True)
    return grid.reshape(size * size, d).astype(table.dtype)
