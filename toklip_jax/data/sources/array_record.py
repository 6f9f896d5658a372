"""Image-text pairs in ArrayRecord files of the project's own: one JSON header and the image each.

A record is the header's length (4 bytes, little-endian), the header with `text` and `label` where
there are any, and the encoded image.
"""

import json
import os
import pathlib
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.data.health import BadSample
from toklip_jax.data.offsets import Offsets
from toklip_jax.data.paths import base_name, expand, is_local
from toklip_jax.data.record_files import RecordFiles, count_records, write_records
from toklip_jax.data.sources.base import ENCODED, SourceKind

_FOOTER = 2**17  # bytes; the places of small files' records, and their sizes
_LENGTH = struct.Struct("<I")


def write_array_record(path: str | pathlib.Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Writes one file and returns the number of records.

    Args:
        records: each with `image` (encoded bytes) and optionally `text` (str, or UTF-8 bytes) and
            `label` (int).

    Raises:
        ValueError: a record has no image, or its text isn't UTF-8; names its row. Nothing is left
            at `path` then.
    """
    return write_records(path, (_pack(record, row) for row, record in enumerate(records)))


class ArrayRecordSource:
    """Records as `write_array_record` took them, text as str.

    Attributes:
        has_labels: whether the first record has a label.
    """

    def __init__(self, files: str | Sequence[str]):
        """Opens files.

        Args:
            files: local paths or patterns as for `paths.expand`.

        Raises:
            FileNotFoundError: files that don't exist; names them.
            ValueError: no record, or a path that isn't local.
        """
        self.files = expand(files)
        if remote := [path for path in self.files if not is_local(path)]:
            raise UserError(f"expected local ArrayRecord files, got {remote[0]}: copy or mount it")
        if missing := [path for path in self.files if not os.path.isfile(path)]:
            raise NotFound(
                f"expected ArrayRecord files, found no file {', '.join(missing[:10])}: check the "
                f"path and the range"
            )
        self._offsets = Offsets(map(count_records, self.files))
        self._records = RecordFiles(self.files)
        if len(self) == 0:
            raise UserError(f"expected records in {files!r}, found none: write them again")
        self.has_labels = self._has_label(0)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record.

        Raises:
            BadSample: the record is damaged, or wasn't written by `write_array_record`.
        """
        data = self._records[index]
        try:
            (length,) = _LENGTH.unpack_from(data)
            end = _LENGTH.size + length
            header = json.loads(data[_LENGTH.size : end]) if end < len(data) else None
            return header | {"image": data[end:]}
        except (struct.error, ValueError, TypeError, RecursionError):
            raise BadSample("not a record of this project") from None

    def identity(self) -> list[Any]:
        """Returns the first index of each file, and a checksum of its end, with all places."""
        return [self._offsets.starts, [_checksum_of_end(path) for path in self.files]]

    def _has_label(self, index):
        try:
            return "label" in self[index]
        except BadSample:
            return False

    def key(self, index: int) -> str:
        """Returns the file's name and the row in it."""
        file, row = self._offsets.place(index)
        return f"{base_name(self.files[file])}:{row}"


ARRAY_RECORD = SourceKind("array_record", ArrayRecordSource, ENCODED)


def _checksum_of_end(path):
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - _FOOTER, 0))
        return zlib.crc32(file.read())


def _pack(record, row):
    if not isinstance(record.get("image"), bytes):
        raise UserError(f"expected the bytes of an image in record {row}, got {list(record)}")
    header = {name: record[name] for name in ("text", "label") if record.get(name) is not None}
    if isinstance(header.get("text"), bytes):
        try:
            header["text"] = header["text"].decode()
        except UnicodeDecodeError:
            raise UserError(f"expected UTF-8 in record {row}, got {header['text']!r}") from None
    packed = json.dumps(header).encode()
    return _LENGTH.pack(len(packed)) + packed + record["image"]
