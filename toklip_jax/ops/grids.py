"""Grids of ids: (height, width), or (frames, height, width) of a video."""

import math

from toklip_jax.core.errors import UserError


def square_grid(n: int) -> tuple[int, int]:
    """Returns the square grid of `n` places.

    Raises:
        ValueError: `n` is not a square number.
    """
    side = math.isqrt(n)
    if side * side != n:
        raise UserError(
            f"expected ids of a square grid (n a square number) or grid=(height, width), got n = "
            f"{n}"
        )
    return side, side


def image_grid(size: tuple[int, ...], factor: int) -> tuple[int, int]:
    """Returns an image's grid where each place has `factor` pixels a side.

    Raises:
        ValueError: the factor does not divide the sides, or it is no image's size.
    """
    if len(size) != 2 or any(side % factor or side < factor for side in size):
        shown = "x".join(map(str, size))
        raise UserError(f"expected image sides divisible by {factor}, got {shown}: resize them")
    return size[0] // factor, size[1] // factor
