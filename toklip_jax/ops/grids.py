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
