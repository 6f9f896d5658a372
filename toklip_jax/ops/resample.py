"""Resampling of images and of learned position tables."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.ops.grids import square_grid


def resize_images(
    images: Float[Array, "b h w c"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Bilinear, half-pixel centres, no antialiasing: torch's `interpolate(mode="bilinear")`.

    The PyTorch recipe applies it where student and teacher take different image sizes.
    """
    b, _, _, c = images.shape
    return jax.image.resize(images, (b, height, width, c), "linear", antialias=False)


def fit_images(images: Float[Array, "b *size c"], size: Sequence[int]) -> Float[Array, "b *new c"]:
    """Returns images as they are where they have this size, else resized as by `resize_images`.

    Args:
        size: (height, width); of videos (frames, height, width).

    Raises:
        ValueError: videos of another size, or videos where images are expected.
    """
    given = images.shape[1:-1]
    if given == tuple(size):
        return images
    if (len(given), len(size)) != (2, 2):
        raise UserError(
            f"expected pixels of {tuple(size)}, got {given}: images are resized to the model's "
            f"size and videos are not, so name a model of theirs"
        )
    return resize_images(images, *size)


def resize_images_tf1(
    images: Float[Array, "b h w c"], height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Bilinear as TensorFlow 1 resized, in float32: pixel i is read at i * old / new.

    No half-pixel centres, no antialiasing; past the last pixel, the last is repeated
    (`tf.compat.v1.image.resize_bilinear` with its defaults). The corners of the image move, but the
    Inception features that FID compares are of images resized so.
    """
    images = images.astype(jnp.float32)
    low, high, share = _tf1_positions(images.shape[2], width)
    left, right = images[:, :, low], images[:, :, high]
    images = left + (right - left) * share[:, None]  # [b, h, width, c]
    low, high, share = _tf1_positions(images.shape[1], height)
    top, bottom = images[:, low], images[:, high]
    return top + (bottom - top) * share[:, None, None]


def _tf1_positions(old, new):
    """The two source pixels of each of `new` pixels, and the second one's share, float32."""
    at = np.arange(new, dtype=np.float32) * np.float32(old / new)
    low = np.minimum(at.astype(np.int32), old - 1)
    return low, np.minimum(low + 1, old - 1), at - low.astype(np.float32)


def resample_positions(
    table: Float[Array, "n d"], grid: Sequence[int], old_grid: Sequence[int] | None = None
) -> Float[Array, "m d"]:
    """Resamples a table of learned positions to another grid, in float32.

    Antialiased bicubic (Keys, a = -0.5), as timm resamples such tables. Row-major on both sides.

    Args:
        grid: places along each side.
        old_grid: the table's grid; square unless given.

    Raises:
        ValueError: the table has not as many rows as its grid has places.
    """
    n, d = table.shape
    old_grid = tuple(old_grid) if old_grid is not None else square_grid(n)
    if math.prod(old_grid) != n or len(old_grid) != len(grid):
        raise UserError(
            f"expected a position table of the grid {old_grid} to resample to {tuple(grid)}, got "
            f"{n} positions"
        )
    if old_grid == tuple(grid):
        return table
    places = table.astype(jnp.float32).reshape(*old_grid, d)
    places = jax.image.resize(places, (*grid, d), "cubic", antialias=True)
    return places.reshape(-1, d).astype(table.dtype)
