"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

The library of that name needs all tensors in memory to write, and knows numpy's dtypes only to
read; hence these two functions. Source: the format's description in huggingface/safetensors.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import BinaryIO

import ml_dtypes
import numpy as np

from toklip_jax.files.lazy import AnyLazy
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
MAX_HEADER_BYTES = 100_000_000  # the format's limit
HEADER_ERRORS = (  # what a header that is not of the format runs into
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,
    KeyError,
    TypeError,
    AttributeError,
)
ALIGNMENT = 8  # the header is filled up with spaces, so that the tensors begin at a multiple


def read_safetensors(file: MappedFile) -> dict[str, np.ndarray]:
    """Returns named arrays, read-only views of the file.

    Raises:
        ValueError: damaged, cut off, or of a dtype that numpy can't hold.
    """
    path, data = file.path, file.bytes
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"{path} is damaged or cut off: its header ends past the file")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
        body = data[8 + length :]
        return {
            name: _view(path, name, entry, body)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except HEADER_ERRORS as error:
        reason = type(error).__name__
        raise ValueError(f"{path} is damaged: its header can't be read ({reason})") from error


def write_safetensors(path: str | pathlib.Path, tensors: Mapping[str, AnyLazy]) -> None:
    """Writes named arrays, each made, written and let go before the next."""
    header, end = {}, 0
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


def _view(path, name, entry, body):
    dtype, shape, offsets = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if len(offsets) != 2:
        raise ValueError(f"{path} is damaged: {name} has no two offsets")
    start, end = offsets
    if dtype not in DTYPES:
        raise ValueError(f"expected a dtype of {sorted(DTYPES)}, got {dtype}: {name}")
    count = 1
    for axis in shape:
        count *= axis if type(axis) is int and axis >= 0 else -1
    size = count * DTYPES[dtype].itemsize
    if count < 0 or not 0 <= start <= end <= len(body) or end - start != size:
        raise ValueError(f"{path} is damaged or cut off: {name} reaches past the file")
    return body[start:end].view(DTYPES[dtype]).reshape(shape)
