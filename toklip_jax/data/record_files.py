"""ArrayRecord files of byte strings: written whole or not at all, read by row."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import expect_unchanged, file_state

# A group is what one read fetches; with one record a group, random access reads nothing in vain.
_OPTIONS = "group_size:1"


def write_records(path: str | pathlib.Path, records: Iterable[bytes]) -> int:
    """Writes one file and returns the number of records; nothing is left of one that fails.

    Raises:
        OSError: it can't be written, as on a full disk.
    """
    from array_record.python import array_record_module

    draft, number = f"{path}.part", 0
    with _writing(path):
        writer = array_record_module.ArrayRecordWriter(draft, _OPTIONS)
    try:
        try:
            for record in records:
                with _writing(path):
                    writer.write(record)
                number += 1
        finally:
            with _writing(path):
                writer.close()
        os.replace(draft, path)
    except BaseException:
        pathlib.Path(draft).unlink(missing_ok=True)
        raise
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


class RecordFiles:
    """The records of several files by index, those of one file after those of another.

    The files are the same in each process that reads them: one that was replaced since is named.
    """

    def __init__(self, paths: Sequence[str]):
        self._states = {path: file_state(path) for path in paths}
        import grain  # of training

        self._records = grain.sources.ArrayRecordDataSource(list(paths))
        self._is_checked = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_is_checked": False}

    def __getitem__(self, index: int) -> bytes:
        """Returns a record.

        Raises:
            BadSample: it is damaged.
            ValueError: a file was replaced since it was opened.
        """
        if not self._is_checked:
            for path, state in self._states.items():
                expect_unchanged(path, state)
            self._is_checked = True
        try:
            return self._records[index]
        except RuntimeError:
            raise BadSample("damaged record") from None


@contextlib.contextmanager
def _writing(path):
    """The library's errors as the system's."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"can't write {path}: {error}") from error


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
