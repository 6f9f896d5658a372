"""Rows as arrays of static shapes: padded, or several packed into one line.

All places of images count through the flattened images of the batch: place p is token p % n of
image p // n, where an image has n tokens. So the features of all images, [m * n, d], are put where
they belong by one gather.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.conversations.encoding import IGNORED, TEXT_PLACE, Row

PADDING = 0  # in `segment_ids`
SIDES = ("right", "left")
_BUCKET_STEP = 128  # the tile of matrix units, in tokens
_BUCKETS_AN_OCTAVE = 4  # so that at most a fifth of a long line is padding


def bucket_length(length: int) -> int:
    """Returns the length that `length` is padded to, so that few programs are compiled.

    It is the next multiple of 128; past 1,024, the next of four equal steps between powers of two
    (1024, 1280, 1536, 1792, 2048, 2560, ...).

    Raises:
        ValueError: a length below 1.
    """
    if length < 1:
        raise UserError(f"expected a length of at least 1, got {length}")
    octave = 1 << (length - 1).bit_length() - 1 if length > 1 else 1
    step = max(_BUCKET_STEP, octave // _BUCKETS_AN_OCTAVE)
    return -(-length // step) * step


def batch_rows(
    rows: Sequence[Row],
    length: int,
    pad_id: int,
    *,
    max_images: int | None = None,
    side: str = "right",
) -> dict[str, Any]:
    """Returns rows as a batch, one in each line.

    Args:
        length: tokens of a line.
        pad_id: the id at padding.
        max_images: images of the batch, with those that only fill it up; None for its own number.
        side: where the padding is: "right", or "left" as generation needs it.

    Returns:
        `ids`, `labels` int32 [b, t]; `segment_ids` int32 [b, t], 1 for the row and 0 for padding;
        `positions` int32 [b, t], from 0 in the row and 0 at padding; `image_places` int32 [b, t],
        through all images of the batch, -1 for text and padding; `images`, the list of them;
        `image_mask` bool [m], which of m places for images are filled.

    Raises:
        ValueError: a row that is too long, too many images, or rows of different images.
    """
    check_name("side", side, SIDES)
    return _fill([[row] for row in rows], length, pad_id, max_images, side)


def pack_rows(
    rows: Sequence[Row],
    length: int,
    pad_id: int,
    *,
    num_lines: int | None = None,
    max_images: int | None = None,
) -> dict[str, Any]:
    """Returns rows as a batch, packed into lines by `first_fit`.

    Arguments and result are those of `batch_rows`; the rows of a line are its segments 1, 2, ...,
    one after another from the left, and `positions` begin at 0 in each.

    Args:
        num_lines: lines of the batch, with empty ones; None for as many as are needed.

    Raises:
        ValueError: as `batch_rows`, or more lines are needed.
    """
    lines = first_fit([len(row) for row in rows], length)
    if num_lines is not None:
        if len(lines) > num_lines:
            raise UserError(
                f"expected rows that fit {num_lines} lines of {length} tokens, got {len(rows)} "
                f"that need {len(lines)}: pass fewer, or raise num_lines"
            )
        lines += [[]] * (num_lines - len(lines))
    return _fill([[rows[i] for i in line] for line in lines], length, pad_id, max_images)


def first_fit(
    lengths: Sequence[int],
    length: int,
    counts: Sequence[int] | None = None,
    max_count: int | None = None,
    max_open: int | None = None,
) -> list[list[int]]:
    """Returns which rows go into which line: each into the first that has room, else a new one.

    Rows come in their order, lines in that of their first row; so it depends on the lengths alone.

    Args:
        lengths: tokens of each row.
        length: tokens of a line.
        counts: images of each row, of which a line takes `max_count`.
        max_open: lines that are looked at; beyond it, the fullest is closed. None for all, whose
            time grows with the square of the rows.

    Raises:
        ValueError: a row that no line has room for.
    """
    counts = [0] * len(lengths) if counts is None else counts
    most = sum(counts) if max_count is None else max_count
    lines: list[list[int]] = []
    rooms: dict[int, tuple[int, int]] = {}  # of the open lines, in their order
    for row, (size, count) in enumerate(zip(lengths, counts, strict=True)):
        if size > length or count > most:
            raise UserError(
                f"expected rows of at most {length} tokens and {most} images, got row {row} with "
                f"{size} and {count}: truncate it, or leave it out"
            )
        found = next((i for i, (a, b) in rooms.items() if size <= a and count <= b), None)
        if found is None:
            found = len(lines)
            lines.append([])
            rooms[found] = (length, most)
            if max_open is not None and len(rooms) > max_open:
                del rooms[min(rooms, key=lambda i: (rooms[i][0], i))]
        lines[found].append(row)
        rooms[found] = (rooms[found][0] - size, rooms[found][1] - count)
        if rooms[found][0] == 0:
            del rooms[found]
    return lines


def _fill(lines, length, pad_id, max_images, side="right") -> dict[str, Any]:
    shape = len(lines), length
    batch: dict[str, Any] = {
        "ids": np.full(shape, pad_id, np.int32),
        "labels": np.full(shape, IGNORED, np.int32),
        "segment_ids": np.full(shape, PADDING, np.int32),
        "positions": np.zeros(shape, np.int32),
        "image_places": np.full(shape, TEXT_PLACE, np.int32),
    }
    tokens_per_image = _tokens_per_image(lines)
    images: list[Any] = []
    for number, line in enumerate(lines):
        used = sum(map(len, line))
        if used > length:
            raise UserError(
                f"expected rows of at most {length} tokens, got {used}: truncate them when they "
                f"are encoded, or pass a larger length"
            )
        start = 0 if side == "right" else length - used
        for segment, row in enumerate(line, 1):
            at = (number, slice(start, start + len(row)))
            shift = len(images) * tokens_per_image
            is_text = row.image_places == TEXT_PLACE
            batch["ids"][at] = np.where(is_text, row.ids, pad_id)
            batch["labels"][at] = row.labels
            batch["segment_ids"][at] = segment
            batch["positions"][at] = np.arange(len(row))
            batch["image_places"][at] = np.where(is_text, TEXT_PLACE, row.image_places + shift)
            images += row.images
            start += len(row)
    return batch | {"images": images, "image_mask": _mask(len(images), max_images)}


def _tokens_per_image(lines):
    found = {row.tokens_per_image for line in lines for row in line if row.images}
    if len(found) > 1:
        raise UserError(f"expected rows of one tokens_per_image, got {sorted(found)}")
    return found.pop() if found else 1


def _mask(number, most):
    most = number if most is None else most
    if number > most:
        raise UserError(
            f"expected at most {most} images in the batch, got {number}: raise max_images, or "
            f"batch fewer rows"
        )
    return np.arange(most) < number
