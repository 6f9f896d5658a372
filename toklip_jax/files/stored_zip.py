"""Zips whose entries are stored, not compressed: torch's and numpy's, as views of the mapped file.

Nothing is decompressed, so nothing can grow. The directory is limited before it is parsed, and an
entry's checksum is compared before it is used.
"""

import io
import pathlib
import zipfile
import zlib

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files.mapped import MappedFile

MAX_DIRECTORY_BYTES = 8 * 2**20  # about a hundred thousand entries
CHUNK_BYTES = 2**24  # read between two releases of the mapped file


def is_zip(path: str | pathlib.Path) -> bool:
    """Tells whether a file begins as a zip does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


class StoredZip:
    """A zip's entries by name.

    Raises:
        ValueError: no zip, damaged, one with too many entries, or one that holds an entry twice.
    """

    def __init__(self, file: MappedFile):
        self._file, self._bytes = file, file.bytes
        with ShortReads(file.path) as raw, zipfile.ZipFile(raw) as archive:
            infos = archive.infolist()
        self._infos = {info.filename: info for info in infos}
        self._views: dict[str, np.ndarray] = {}
        self._used_bytes = 0
        if len(self._infos) != len(infos):
            raise UserError("damaged: its zip holds the same entry twice")

    @property
    def names(self) -> list[str]:
        return list(self._infos)

    def view(self, name: str) -> np.ndarray:
        """Returns the bytes of an entry, whose checksum fits.

        Raises:
            ValueError: no such entry, a compressed or damaged one, or one that ends past the file.
        """
        if name not in self._views:
            self._views[name] = self._checked(self._infos.get(name), name)
        return self._views[name]

    def _checked(self, info, name):
        if info is None:
            raise UserError(f"damaged: entry {printable(name)} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(
                "expected stored zip entries, as torch.save and numpy.savez write them, got "
                "compressed or encrypted ones: re-save it"
            )
        start = self._start(info)
        if start < 0 or info.file_size < 0 or start + info.file_size > len(self._bytes):
            raise UserError(f"damaged or cut off: entry {printable(name)} ends past the file")
        self._used_bytes += info.file_size
        if self._used_bytes > len(self._bytes):
            raise UserError("damaged: entries of its zip overlap")
        view = self._bytes[start : start + info.file_size]
        if self._checksum(view) != info.CRC:
            raise UserError(
                f"damaged: entry {printable(name)} does not have its checksum (CRC-32): fetch the "
                f"file again, or save it again where torch's set_crc32_options left checksums out"
            )
        return view

    def _checksum(self, view):
        checksum = 0
        for start in range(0, len(view), CHUNK_BYTES):
            checksum = zlib.crc32(view[start : start + CHUNK_BYTES], checksum)
            self._file.release()
        return checksum

    def _start(self, info):
        """Returns where an entry's bytes begin, which its own header says."""
        offset = info.header_offset
        head = bytes(self._bytes[offset : offset + 30]) if offset >= 0 else b""
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise UserError(f"damaged: entry {printable(info.filename)} has no header")
        name_length = int.from_bytes(head[26:28], "little")
        return offset + 30 + name_length + int.from_bytes(head[28:30], "little")


class ShortReads(io.FileIO):
    """A file that gives nobody more at a time than a zip's directory may have.

    `zipfile` reads the directory at once, and makes an object of each of its entries.
    """

    def read(self, size: int | None = -1) -> bytes:
        most = MAX_DIRECTORY_BYTES
        data = super().read(most + 1 if size is None or size < 0 else min(size, most + 1))
        if len(data) > most:
            raise UserError(
                f"expected a zip whose directory takes at most {most} bytes, got a longer one: "
                f"save the weights alone, by torch.save(model.state_dict(), path)"
            )
        return data
