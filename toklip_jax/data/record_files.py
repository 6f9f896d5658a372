"""ArrayRecord files of byte strings: written whole or not at all, read by row."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample

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
    """Returns all records of a file.

    Raises:
        ValueError: it is damaged.
    """
    with _reader(path) as reader:
        return reader.read_all() if reader.num_records() else []


def count_records(path: str | pathlib.Path) -> int:
    """Returns the number of records in a file.

    Raises:
        ValueError: it is damaged.
    """
    with _reader(path) as reader:
        return reader.num_records()


@contextlib.contextmanager
def damage_is_a_bad_sample() -> Iterator[None]:
    """Makes a `BadSample` of what the library raises of a record that is damaged."""
    try:
        yield
    except RuntimeError:
        raise BadSample("damaged record") from None


@contextlib.contextmanager
def _reader(path) -> Iterator[Any]:
    """An open file; the library's own reader is no context manager in all of its versions."""
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        try:
            yield reader
        finally:
            reader.close()
    except RuntimeError as error:
        cause = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"expected an ArrayRecord file, got {path}, which is damaged ({cause}): write it again"
        ) from error
