"""Sizes and ids in words."""

from collections.abc import Sequence
from typing import Any

NAMES = {"toklip": "TokLIP", "vq": "VQ", "mse": "MSE", "l1": "L1"}


def size_text(size: Sequence[int]) -> str:
    """Returns "64 by 64 pixels", or "8 frames of 64 by 64 pixels"."""
    *frames, height, width = size
    return "".join(f"{count} frames of " for count in frames) + f"{height} by {width} pixels"


def codebook_text(sizes: Sequence[int]) -> str:
    """Returns "64 codes", "2 codebooks of 64 codes", or "codebooks of 64 and 32 codes"."""
    if len(sizes) == 1:
        return f"{sizes[0]:,} codes"
    if len(set(sizes)) == 1:
        return f"{len(sizes)} codebooks of {sizes[0]:,} codes"
    *first, last = (f"{size:,}" for size in sizes)
    return f"codebooks of {', '.join(first)} and {last} codes"


def ids_text(num_places: int, codebook_sizes: Sequence[int]) -> str:
    """Returns "16 of 64 codes", or "16 times 2, from 2 codebooks of 64 codes"."""
    if len(codebook_sizes) == 1:
        return f"{num_places:,} of {codebook_text(codebook_sizes)}"
    return f"{num_places:,} times {len(codebook_sizes)}, from {codebook_text(codebook_sizes)}"


def place_text(ids: Any) -> str:
    """Returns the id or the ids of a place: "12", or "12·7"."""
    return "·".join(map(str, ids.reshape(-1).tolist()))


def duration_text(seconds: float) -> str:
    """Returns "40 s", "15 min" or "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60:,} h {minutes % 60} min"


def name_text(name: str) -> str:
    """Returns the name of a stage, an evaluation or a value as a title: "TokLIP", "Zero shot"."""
    return NAMES.get(name) or name[:1].upper() + name[1:].replace("_", " ")
