"""Sizes of images: the side of a square, or (height, width)."""

from collections.abc import Sequence

from toklip_jax.core.errors import UserError

Size = int | Sequence[int]
MAX_SIDE = 2**16  # pixels, or frames; compilers end the process where products overflow


def sides_of(size: Size) -> tuple[int, ...]:
    """Returns (height, width); a size of more than two sides as it is.

    Raises:
        ValueError: a side below 1 or above `MAX_SIDE`, or fewer than two of them.
    """
    sides = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    if len(sides) < 2 or min(sides) < 1 or max(sides) > MAX_SIDE:
        raise UserError(
            f"expected an image_size of at least 1 pixel, or (height, width), and at most "
            f"{MAX_SIDE}, got {size}"
        )
    return sides


def simplest(size: Size) -> int | tuple[int, ...]:
    """Returns a square as its side and other sizes as tuples, so that equal sizes compare equal."""
    sides = sides_of(size)
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else sides
