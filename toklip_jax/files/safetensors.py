"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

The library of that name needs all tensors in memory to write, and knows numpy's dtypes only to
read; hence these two functions. Source: the format's description in huggingface/safetensors.
"""

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import BinaryIO

import ml_dtypes
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files.lazy import AnyLazy
from toklip_jax.files.limits import MAX_NDIM, MAX_TENSORS
from toklip_jax.files.mapped import MappedFile

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = (
    16 * 2**20
)  # a tensor takes about 120; parsed, JSON may grow to 24 times its size
METADATA = "__metadata__"
MAX_COUNT = 2**48  # of an axis, and of a file's bytes
ENTRY = {"dtype", "shape", "data_offsets"}
ALIGNMENT = 8  # the header is filled up with spaces, so that the tensors begin at a multiple


def read_safetensors(file: MappedFile) -> dict[str, np.ndarray]:
    """Returns named arrays, read-only views of the file.

    Raises:
        ValueError: damaged, cut off, of a dtype that numpy can't hold, or against the format's
            rules: each name stands once, and the tensors fill the file without overlap or gap.
    """
    header, body = _split(file)
    entries = {
        name: _Entry.read(file.path, name, entry)
        for name, entry in header.items()
        if name != METADATA
    }
    if len(entries) > MAX_TENSORS:
        raise UserError(
            f"expected at most {MAX_TENSORS} tensors in {file.path}, got {len(entries)}: split it"
        )
    _expect_filled(file.path, entries, len(body))
    return {name: entry.view(body) for name, entry in entries.items()}


def write_safetensors(
    path: str | pathlib.Path,
    tensors: Mapping[str, AnyLazy],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named arrays, each made, written and let go before the next.

    Args:
        metadata: what the file says of itself; nothing unless given.
    """
    header, end = {METADATA: dict(metadata)} if metadata else {}, 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in tensors.items():
            _write(file, name, array)


def _write(file: BinaryIO, name, array):
    made = np.ascontiguousarray(array)
    assert (made.size, made.dtype) == (array.nbytes // array.dtype.itemsize, array.dtype), name
    file.write(made.reshape(-1).view(np.uint8).data)


def _split(file):
    """The header, checked to be an object with each name once, and the bytes behind it."""
    path, data = file.path, file.bytes
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > len(data) - 8:
        raise UserError(f"{path} is damaged or cut off: its header ends past the file")
    if length > MAX_HEADER_BYTES:
        raise UserError(
            f"expected a header of at most {MAX_HEADER_BYTES} bytes, got {length} in {path}: split "
            f"the tensors over several files with an index"
        )
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_once)
    except _Twice as error:
        raise UserError(f"{path} is damaged: its header names {error} twice") from error
    except (ValueError, RecursionError) as error:  # of json, UTF-8, and integers of many digits
        reason = type(error).__name__
        raise UserError(f"{path} is damaged: its header can't be read ({reason})") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is damaged: its header can't be read (it is not an object)")
    return header, data[8 + length :]


class _Twice(Exception):
    """A name that stands twice in an object of JSON, of which a dict would keep the last."""


def _once(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        [(name, _)] = collections.Counter(name for name, _ in pairs).most_common(1)
        raise _Twice(printable(name))
    return made


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A tensor of the header; `start` and `end` count from the header's end."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @classmethod
    def read(cls, path, name, entry) -> "_Entry":
        shown = printable(name)
        if not isinstance(entry, dict) or entry.keys() != ENTRY:
            raise UserError(f"{path} is damaged: {shown} has no dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            known = sorted(DTYPES)
            raise UserError(
                f"expected a dtype of {known}, got {printable(dtype)} for {shown} in {path}"
            )
        if not _are_counts(shape) or len(shape) > MAX_NDIM:
            raise UserError(f"{path} is damaged: {shown} has no proper shape")
        if not _are_counts(offsets) or len(offsets) != 2:
            raise UserError(f"{path} is damaged: {shown} has no two offsets")
        size = math.prod(shape) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != size:
            raise UserError(
                f"{path} is damaged: {shown} of {size} bytes is said to go from {offsets[0]} to "
                f"{offsets[1]}"
            )
        return cls(DTYPES[dtype], tuple(shape), *offsets)

    def view(self, body: np.ndarray) -> np.ndarray:
        return body[self.start : self.end].view(self.dtype).reshape(self.shape)


def _are_counts(values):
    is_list = isinstance(values, list)
    return is_list and all(type(value) is int and 0 <= value < MAX_COUNT for value in values)


def _expect_filled(path, entries, size):
    """Raises ValueError unless the tensors lie one after another and fill the file."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            fault = "overlaps the one before it" if entry.start < end else "has a gap before it"
            raise UserError(f"{path} is damaged: the tensor {printable(name)} {fault}")
        end = entry.end
    if end != size:
        fault = "reach past the file" if end > size else f"end {size - end} bytes before it does"
        raise UserError(f"{path} is damaged or cut off: its tensors {fault}")
