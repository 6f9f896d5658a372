"""Reads labels, as data sets store them, as the int32 of batches."""

import re
from typing import Any

import numpy as np

from toklip_jax.data.health import BadSample

_LIMITS = np.iinfo(np.int32)
_DIGITS = re.compile(r"[+-]?[0-9]{1,19}(?:\.0*)?")  # as pandas writes integers beside gaps: "3.0"


def label_of(value: Any) -> int:
    """Returns a label from a whole number, or from its digits as str or bytes.

    Raises:
        BadSample: there is none, it is neither, or it doesn't fit int32.
    """
    if value is None:
        raise BadSample("missing label")
    number = _number(value)
    if not _LIMITS.min <= number <= _LIMITS.max:
        raise BadSample("label beyond 32 bits")
    return number


def _number(value):
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        if isinstance(value, str):
            if not _DIGITS.fullmatch(value.strip()):
                raise BadSample("label is not a whole number")
            return int(value.strip().partition(".")[0])
        number = int(value)
        if number == value:
            return number
    except (TypeError, ValueError, OverflowError):  # other types, NaN, infinity
        pass
    raise BadSample("label is not a whole number")
