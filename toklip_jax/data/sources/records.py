"""Helpers of the sources that give records: `image` (encoded bytes), `text`, `label`."""

from typing import Any

from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import read_bytes


def read_image_bytes(path: str) -> bytes:
    """Returns an image's file.

    Raises:
        BadSample: there is none.
    """
    try:
        return read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise BadSample("missing image") from None


def label_of(value: Any) -> int:
    """Returns a label from a number, or from its digits.

    Raises:
        BadSample: it is neither.
    """
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BadSample("label is no number") from None
