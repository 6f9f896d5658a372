"""Reads `.npz` files, numpy's zips of arrays, as views of the mapped file: never a pickle."""

import io
import math
import pathlib

import ml_dtypes
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.core.whole_files import draft_of
from toklip_jax.files.limits import MAX_NDIM, MAX_TENSORS
from toklip_jax.files.mapped import MappedFile
from toklip_jax.files.stored_zip import StoredZip

SUFFIX = ".npy"
HEADER_BYTES = 10_000  # numpy's own limit
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
BFLOAT16 = np.dtype("V2")  # as numpy, which doesn't know bfloat16, writes it


def is_npz(path: str | pathlib.Path) -> bool:
    """Tells whether a file begins as a zip whose first entry is an array of numpy's."""
    with open(path, "rb") as file:
        head = file.read(30)
        name = file.read(int.from_bytes(head[26:28], "little"))
    return head[:4] == b"PK\x03\x04" and name.endswith(SUFFIX.encode())


def read_npz(file: MappedFile) -> dict[str, np.ndarray]:
    """Returns named arrays, read-only views of the file; bfloat16 is recognised.

    Raises:
        ValueError: damaged, compressed, or with entries that are no arrays of numbers.
    """
    archive = StoredZip(file)
    if len(archive.names) > MAX_TENSORS:
        raise UserError(f"expected at most {MAX_TENSORS} arrays, got {len(archive.names)}")
    return {name.removesuffix(SUFFIX): _array(archive.view(name), name) for name in archive.names}


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes named arrays into one file, whole or not at all."""
    with draft_of(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)


def _array(data, name):
    stream = io.BytesIO(data[: HEADER_BYTES + 20].tobytes())
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise UserError(f"damaged: {printable(name)} is not a numpy array")
    shape, is_fortran, dtype = HEADERS[version](stream, max_header_size=HEADER_BYTES)
    dtype = np.dtype(ml_dtypes.bfloat16) if dtype == BFLOAT16 else dtype
    is_number = dtype.kind in "fiub" or dtype == ml_dtypes.bfloat16
    if not is_number or not dtype.isnative:
        raise UserError(f"expected numbers, got {printable(dtype)}: {printable(name)}")
    body = data[stream.tell() :]
    are_counts = len(shape) <= MAX_NDIM and all(type(x) is int and x >= 0 for x in shape)
    if not are_counts or math.prod(shape) * dtype.itemsize != len(body):
        raise UserError(f"damaged: {printable(name)} does not have the size that its header says")
    return body.view(dtype).reshape(shape, order="F" if is_fortran else "C")
