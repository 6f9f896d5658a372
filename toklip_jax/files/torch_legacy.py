"""Reads what `torch.save` wrote before torch 1.6, under the same rules as `torch_zip`.

Such a file is five pickles in a row and, behind them, the entries of the storages:

    the magic number; the protocol; a dict that tells the byte order
    the tree, whose tensors name their storages by key
    the list of the keys, in the order in which the storages follow
    for each key: the number of entries, int64, and the entries

(`torch.serialization`, `_legacy_save`; `_use_new_zipfile_serialization=False` still writes it.)
"""

import io
import pathlib
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files import MappedFile
from toklip_jax.files.pickle_data import MAX_PICKLE_BYTES, PersistentId, PickleError, read_pickle
from toklip_jax.files.torch_zip import one_clear_error, resolve, storage_id

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
SHORT = 100  # instructions of the pickles before the tree; torch's have 3 and 19
COUNT = np.dtype("<i8")


def is_legacy(path: str | pathlib.Path) -> bool:
    """Tells whether a file begins as torch's did before 1.6."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_torch_legacy(file: MappedFile) -> Any:
    """Returns what `torch.save` wrote, as `read_torch_zip` does.

    Raises:
        UnsafeFileError: a pickle names something that runs code.
        ValueError: damaged, cut off, big-endian, or of an older protocol.
    """
    with one_clear_error(file.path):
        tree, keys, begin = _read_pickles(file.bytes[len(MAGIC) :])
        storages = _Storages(file, len(MAGIC) + begin, keys, tree.persistent_ids)
        return resolve(tree, storages)


def _read_pickles(data):
    """The tree, the keys of its storages, and where in `data` the pickles end."""
    stream = io.BytesIO(data[:MAX_PICKLE_BYTES].tobytes())
    try:
        _check(read_pickle(stream, SHORT).value, read_pickle(stream, SHORT).value)
        return read_pickle(stream), read_pickle(stream).value, stream.tell()
    except PickleError as error:
        if stream.tell() < MAX_PICKLE_BYTES:
            raise
        raise UserError(
            f"expected pickles of at most {MAX_PICKLE_BYTES} bytes, got longer ones: save the "
            f"weights alone, by torch.save(model.state_dict(), path)"
        ) from error


def _check(protocol, system):
    if protocol != PROTOCOL:
        raise UserError(f"expected protocol {PROTOCOL} of torch.save, got another: re-save it")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UserError("expected little-endian storages, got big-endian ones: re-save it")


class _Storages:
    """The entries behind the pickles, as views of the mapped file."""

    def __init__(
        self, file: MappedFile, begin: int, keys: Any, persistent_ids: tuple[PersistentId, ...]
    ):
        self.path, self._bytes = file.path, file.bytes
        self._found: dict[str, np.ndarray] = {}
        dtypes = {key: dtype for dtype, key, _ in map(storage_id, persistent_ids)}
        if not isinstance(keys, list) or set(map(type, keys)) - {str} or set(keys) != set(dtypes):
            raise UserError("damaged: the list of its storages is not that of its tensors")
        for key in keys:
            numel = int(self._take(begin, COUNT, 1)[0])
            begin += COUNT.itemsize
            self._found[key] = self._take(begin, dtypes[key], numel)
            begin += self._found[key].nbytes

    def storage(self, dtype: np.dtype, key: str, numel: int) -> np.ndarray:
        found = self._found[key]
        if found.dtype != dtype or len(found) < numel:
            raise UserError(
                f"damaged: storage {printable(key)} should hold {numel} {dtype} and has "
                f"{len(found)} {found.dtype}"
            )
        return found[:numel]

    def _take(self, begin, dtype, numel):
        size = numel * dtype.itemsize
        if numel < 0 or begin + size > len(self._bytes):
            raise UserError("damaged or cut off: a storage ends past the file")
        return self._bytes[begin : begin + size].view(dtype)
