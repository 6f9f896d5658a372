"""Reads where the members of a tar are, from its headers alone.

Python's `tarfile` is not used: it stops at the first end mark without a word, follows negative
sizes, and takes extended headers of any size into memory. Here places strictly rise, so that
reading ends, and every fault is a `BrokenTar`.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

BLOCK = 512
FILE, LINK, SPARSE, OTHER = "file", "link", "sparse", "other"
MAX_EXTENDED = 2**20  # bytes of a long name or of pax records; real ones have some hundred
MAX_RECORDS = 200  # of one pax header; real ones have some ten
_CHUNK = 2**20  # bytes of zeros skipped at once, at most

_SIZE, _CHECKSUM, _TYPE = slice(124, 136), slice(148, 156), slice(156, 157)
_PREFIX, _POSIX = slice(345, 500), b"ustar\0"
_SPARSE_CONTINUES, _SPARSE_CONTINUES_AGAIN = 482, 504  # a flag: another block of the map follows
_FILES, _LINKS = (b"0", b"\0", b"7"), (b"1", b"2")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*(?:\0.*)?", re.DOTALL)


class BrokenTar(Exception):
    """The bytes that follow are no member of a tar.

    Attributes:
        name: the member that is cut off, if it has a header; else "".
        is_after_end: a whole tar came before.
    """

    def __init__(self, reason: str, name: str = ""):
        super().__init__(reason)
        self.name, self.is_after_end = name, False


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar.

    Attributes:
        name: its path; bytes that aren't UTF-8 are surrogates.
        kind: "file", "link", "sparse" (its data are not in one piece), or "other".
        offset: the place of its data in the file.
        size: the size of its data in bytes.
        part: which of the tars that were joined in one file it is of, from 0.
    """

    name: str
    kind: str
    offset: int
    size: int
    part: int


def read_members(file: Any, size: int) -> Iterator[Member]:
    """Yields the members of a tar, and of all tars that follow it in the same file.

    Args:
        file: open for reading, seekable.
        size: the file's size in bytes.

    Raises:
        BrokenTar: a damaged header, data that end past the file, or no end mark.
    """
    reader = _Reader(file, size)
    part = 0
    while part == 0 or reader.skip_zeros():
        has_member = False
        try:
            for member in reader.members(part):
                has_member = True
                yield member
        except BrokenTar as error:
            error.is_after_end = part > 0 and not has_member
            raise
        part += 1


class _Reader:
    def __init__(self, file, size):
        self._file, self._size, self._at = file, size, 0
        self._for_all: dict[str, bytes] = {}  # pax records of the rest of the tar

    def members(self, part) -> Iterator[Member]:
        """Yields the members up to an end mark."""
        self._for_all, for_next = {}, {}
        while any(header := self._take(BLOCK)):
            _check_sum(header)
            kind, size = header[_TYPE], _number(header[_SIZE])
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                for_next |= self._extended(kind, size)
                continue
            records, for_next = self._for_all | for_next, {}
            yield self._member(header, size, records, part)

    def skip_zeros(self) -> bool:
        """Moves to the next block that isn't all zeros, and returns whether there is one."""
        step = BLOCK
        while self._at < self._size:
            self._file.seek(self._at)
            chunk = self._file.read(min(step, self._size - self._at))
            step = min(2 * step, _CHUNK)
            if not chunk:
                return False
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            self._at += zeros if zeros == len(chunk) else zeros // BLOCK * BLOCK
            if zeros < len(chunk):
                return True
        return False

    def _take(self, size) -> bytes:
        if self._at + size > self._size:
            raise BrokenTar("it ends early")
        self._file.seek(self._at)
        data = self._file.read(size)
        if len(data) < size:
            raise BrokenTar("it ends early")
        self._at += size
        return data

    def _extended(self, kind, size) -> dict[str, bytes]:
        """Takes an extended header; returns what it says of the next member."""
        if size > MAX_EXTENDED:
            raise BrokenTar("an extended header that is too large")
        data = self._take(size)
        self._at += -size % BLOCK
        if kind == b"K":
            return {}
        if kind == b"L":
            return {"path": data.split(b"\0")[0]}
        records = _pax_records(data)
        if kind != b"g":
            return records
        self._for_all |= records
        return {}

    def _member(self, header, size, records, part) -> Member:
        if header[_TYPE] == b"S":
            self._skip_sparse_map(header)
        size = _decimal(records["size"]) if "size" in records else size
        size = 0 if header[_TYPE] in _WITHOUT_DATA else size
        path = records.get("GNU.sparse.name", records.get("path", _name_of(header)))
        kind, name = _kind_of(header, path, records), path.decode("utf-8", "surrogateescape")
        if self._at + size > self._size:
            raise BrokenTar("data that end past the file", name)
        member = Member(name, kind, self._at, size, part)
        self._at += size + -size % BLOCK
        return member

    def _skip_sparse_map(self, header):
        block, flag = header, _SPARSE_CONTINUES
        while block[flag]:
            block, flag = self._take(BLOCK), _SPARSE_CONTINUES_AGAIN


def _kind_of(header, name, records):
    kind = header[_TYPE]
    if kind == b"S" or any(name.startswith("GNU.sparse.") for name in records):
        return SPARSE
    if kind in _LINKS:
        return LINK
    is_old_directory = kind == b"\0" and name.endswith(b"/")
    return FILE if kind in _FILES and not is_old_directory else OTHER


def _name_of(header):
    name = header[:100].split(b"\0")[0]
    if header[257:263] == _POSIX and (prefix := header[_PREFIX].split(b"\0")[0]):
        return prefix + b"/" + name
    return name


def _check_sum(header):
    """Both sums are in use: of unsigned bytes, and of signed ones by old programs."""
    said = _number(header[_CHECKSUM])
    rest = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(rest)
    if said != unsigned and said != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise BrokenTar("a damaged header")


def _number(field):
    """Reads an octal number, or, after a first byte of 128, a binary one."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        raise BrokenTar("a negative number")
    if (octal := _OCTAL.fullmatch(field)) is None:
        raise BrokenTar("a damaged number")
    return int(octal[1] or b"0", 8)


def _decimal(text):
    if not text.isdigit() or len(text) > 20:
        raise BrokenTar("a damaged size")
    return int(text)


def _pax_records(data) -> dict[str, bytes]:
    """Reads records "length name=value\\n"."""
    records, at, number = {}, 0, 0
    while at < len(data) and data[at]:
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit():
            raise BrokenTar("a damaged extended header")
        end = at + int(length)
        name, equals, value = data[at + len(length) + 1 : end - 1].partition(b"=")
        is_whole = at < end <= len(data) and data[end - 1] == ord("\n") and equals
        number += 1
        if not is_whole or number > MAX_RECORDS:
            raise BrokenTar("a damaged extended header")
        records[name.decode("utf-8", "replace")] = value
        at = end
    return records
