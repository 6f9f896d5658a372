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
    if len(size) != 2:
        raise UserError(
            f"expected the size of an image, (height, width), got {size}: this tokenizer takes no "
            f"videos"
        )
    if any(side % factor or side < factor for side in size):
        raise UserError(
            f"expected image sides divisible by {factor}, got {_shown(size)}: resize them"
        )
    return size[0] // factor, size[1] // factor


def video_grid(size: tuple[int, int, int], factor: int, frames: int) -> tuple[int, int, int]:
    """Returns a video's grid where each place has `frames` frames and `factor` pixels a side.

    Raises:
        ValueError: the factor does not divide the sides, or `frames` not the number of frames.
    """
    time, *sides = size
    if time % frames or time < frames:
        raise UserError(
            f"expected videos of a number of frames divisible by {frames}, got {time} frames: cut "
            f"them, or repeat the last frame"
        )
    if any(side % factor or side < factor for side in sides):
        raise UserError(
            f"expected frames with sides divisible by {factor}, got {_shown(sides)}: resize them"
        )
    return time // frames, sides[0] // factor, sides[1] // factor


def _shown(sides):
    return "x".join(map(str, sides))
