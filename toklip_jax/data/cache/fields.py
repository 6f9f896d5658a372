"""The arrays of a cache's record: their types, shapes and places."""

import dataclasses
from collections.abc import Iterable

import ml_dtypes
import numpy as np

DTYPES = {name: np.dtype(name) for name in ("uint16", "uint32", "int32", "int64", "float32")}
DTYPES["bool"] = np.dtype(bool)
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
WIDENED = ("uint16", "uint32")  # ids, which batches have as int32
_SMALL = 2**16  # as many ids fit two bytes


@dataclasses.dataclass(frozen=True)
class Field:
    """An array in a record.

    Attributes:
        name: its name in a sample.
        dtype: one of `DTYPES`.
        shape: the shape of one crop's array; that of `ids` is (n,), or (n, q) where a place has q
            ids.
        count: 1, or the number of crops.
        offset: where the first crop's array begins, in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    count: int = 1
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes of one crop's array."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize

    def read(self, record: bytes, crop: int) -> np.ndarray:
        """Returns the array of a crop; where all crops share one, that."""
        start = self.offset + (crop * self.size if self.count > 1 else 0)
        number = self.size // DTYPES[self.dtype].itemsize
        array = np.frombuffer(record, DTYPES[self.dtype], number, start).reshape(self.shape)
        return array.astype(np.int32) if self.dtype in WIDENED else array


def lay_out(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Returns the fields one after another, those of large elements first, so that all align."""
    placed, offset = [], 0
    for field in sorted(fields, key=lambda f: -DTYPES[f.dtype].itemsize):
        placed.append(dataclasses.replace(field, offset=offset))
        offset += field.count * field.size
    return tuple(placed)


def id_dtype(num_values: int) -> str:
    """Returns the smallest type for ids below `num_values`: "uint16" or "uint32"."""
    return "uint16" if num_values <= _SMALL else "uint32"
