"""ArrayRecord files of byte strings: written whole or not at all, read by row."""

import os
import pathlib
from collections.abc import Iterable

# A group is what one read fetches; with one record a group, random access reads nothing in vain.
_OPTIONS = "group_size:1"


def write_records(path: str | pathlib.Path, records: Iterable[bytes]) -> int:
    """Writes one file and returns the number of records; nothing is left of one that fails."""
    from array_record.python import array_record_module

    draft, number = f"{path}.part", 0
    writer = array_record_module.ArrayRecordWriter(draft, _OPTIONS)
    try:
        for record in records:
            writer.write(record)
            number += 1
    except BaseException:
        writer.close()
        os.unlink(draft)
        raise
    writer.close()
    os.replace(draft, path)
    return number


def read_records(path: str | pathlib.Path) -> list[bytes]:
    """Returns all records of a file."""
    with _Reader(path) as reader:
        return reader.read_all() if reader.num_records() else []


def count_records(path: str | pathlib.Path) -> int:
    """Returns the number of records in a file."""
    with _Reader(path) as reader:
        return reader.num_records()


class _Reader:
    """An open file; the library's own reader is no context manager in all of its versions."""

    def __init__(self, path: str | pathlib.Path):
        from array_record.python import array_record_module

        self._reader = array_record_module.ArrayRecordReader(str(path))

    def __enter__(self):
        return self._reader

    def __exit__(self, *error: object) -> None:
        self._reader.close()
