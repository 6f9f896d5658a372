"""Paths of data files: brace and glob patterns, and bytes from local disks or fsspec."""

import collections
import contextlib
import errno
import io
import itertools
import os
import pathlib
import re
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec

from toklip_jax.core.errors import NotFound, StorageFailed, UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BLOCK = 2**22  # bytes read ahead from remote files
_MOST = 2**20  # files that patterns name
_OPEN_FILES = 128  # per process; limits of 1,024 are common, and a data set may have more shards
# What fsspec puts before another URL, as in "simplecache::gs://bucket/0.tar".
_OUTER = ("filecache", "simplecache", "blockcache", "cached", "zip", "tar", "libarchive", "dir")
_OUTER += ("reference",)


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Returns the paths that patterns name: sorted within a glob, else in the order given.

    Args:
        patterns: local paths or fsspec URLs. Braces stand for a range ("{00000..00331}", which
            keeps leading zeros) or alternatives ("{a,b}"); `*`, `?` and `[` match existing files,
            unless a file has just that name.

    Raises:
        ValueError: no pattern, a range that runs backwards, a glob without a match, or several
            patterns joined by "::".
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns or not all(patterns):
        raise UserError(f"expected paths or patterns of files, got {patterns!r}: name at least one")
    named = [one for pattern in patterns for one in itertools.islice(_braces(pattern), _MOST + 1)]
    if len(named) > _MOST:
        raise UserError(
            f"expected patterns that name at most {_MOST:,} files, got more of {patterns[0]!r}: "
            f"correct its range"
        )
    return [path for one in named for path in _glob(one)]


def expand_home(path: str | pathlib.Path) -> str:
    """Returns a path that a config names with its "~" expanded; URLs stay as they are.

    Every source passes its paths through here or `expand`, so that all take the same ones.

    Raises:
        ValueError: several paths joined by "::", which only open_clip splits.
    """
    path = os.fspath(path)
    if "\0" in path:
        raise UserError(f"expected a path, got {path!r}, which has a NUL: correct it")
    outer, joined, _ = path.partition("::")
    if joined and outer.split("://")[0] not in _OUTER:
        raise UserError(
            f"expected one path, got {path}, which joins several by '::' as open_clip does: pass a "
            f"list of them, or a mixture with their weights"
        )
    return os.path.expanduser(path)


def join(directory: str, name: str) -> str:
    """Returns the path of `name` in a directory, which is "" for the current one, or a URL."""
    return f"{directory.rstrip('/')}/{name}" if directory else name


def is_local(path: str) -> bool:
    """Says whether `path` is on a file system of this machine, not an fsspec URL."""
    return "://" not in path and "::" not in path


def base_name(path: str) -> str:
    """Returns what follows the last slash."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def file_system(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a path, and the path's name in it.

    Raises:
        ValueError: fsspec doesn't know the protocol, or its package isn't installed.
    """
    try:
        return fsspec.core.url_to_fs(path)
    except Exception as error:  # packages that are missing, or what theirs make of the URL
        raise UserError(
            f"expected a local path, or a URL that fsspec opens, got {path} ({_one_line(error)})"
        ) from error


@contextlib.contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Names the URL in what its file system raises, which may be of any kind and say anything.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it could not be read.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(f"expected a file, found none at {path}: check the path") from error
    except Exception as error:
        raise StorageFailed(
            f"expected to read {path}, got {_one_line(error)}: check its address, this user's "
            f"rights to it, and the network"
        ) from error


def open_file(path: str, block_size: int = _BLOCK) -> io.BufferedReader:
    """Opens a file for reading.

    Args:
        block_size: bytes read ahead from a remote one.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a directory, a pipe or a device.
    """
    if is_local(path):
        size_of_file(path)  # a pipe would be waited for
        return open(path, "rb")
    system, name = file_system(path)
    with storage_errors(path):
        file = system.open(name, "rb", block_size=block_size)
    return io.BufferedReader(_RemoteFile(file, path))


def read_bytes(path: str) -> bytes:
    """Returns a whole file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: no file can be called so: it has a NUL, or half a character.
    """
    if is_local(path):
        with open(path, "rb") as file:
            return file.read()
    system, name = file_system(path)
    with storage_errors(path):
        return system.cat_file(name)


def size_of_file(path: str) -> int:
    """Returns the size of a local file in bytes.

    Raises:
        OSError: there is none, or it is a directory, a pipe or a device, whose end may never come.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, os.strerror(number), path)
    return found.st_size


def file_state(path: str) -> dict[str, Any]:
    """Returns values that change when a file does: `size`, and a time or checksum as text.

    Raises:
        FileNotFoundError: there is none.
    """
    if is_local(path):
        found = os.stat(path)
        return {"size": found.st_size, "version": str(found.st_mtime_ns)}
    system, name = file_system(path)
    with storage_errors(path):
        info = system.info(name)
    versions = {"etag", "mtime", "lastmodified", "last_modified", "updated", "created", "md5hash"}
    found = sorted((k, str(v)) for k, v in info.items() if k.lower() in versions)
    return {"size": info["size"], "version": repr(found)}


def expect_unchanged(path: str, state: Mapping[str, Any]) -> None:
    """Checks that a file is as it was when the run opened its data.

    Args:
        state: its `file_state` of then.

    Raises:
        ValueError: it isn't: what was counted then no longer fits what is read now.
    """
    if file_state(path) != state:
        raise UserError(
            f"expected {path} as it was when the run opened it, found that it has changed since: "
            f"start the run again"
        )


class RangeReader:
    """Byte ranges of many files: `os.pread` locally, ranged reads of fsspec elsewhere.

    Several threads may use it; when it is pickled, its open files are left out.
    """

    def __init__(self):
        self._files: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    def read(self, path: str, start: int, size: int) -> bytes:
        """Returns up to `size` bytes from `start`; fewer at the file's end."""
        if is_local(path):
            file = self._open(path)  # kept until it is read: another thread may let go of it
            return os.pread(file.fileno(), size, start)
        system, name = file_system(path)
        with storage_errors(path):
            return system.cat_file(name, start=start, end=start + size)

    def _open(self, path):
        with self._lock:
            if path not in self._files:
                self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115
                if len(self._files) > _OPEN_FILES:
                    # Not closed here: another thread may still be reading it. It closes with its
                    # last reference.
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return self._files[path]


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose errors name it."""

    def __init__(self, file, path):
        self._file, self._path = file, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with storage_errors(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with storage_errors(self._path):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _one_line(error):
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _braces(pattern) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    head, tail = pattern[: match.start()], pattern[match.end() :]
    for choice in _choices(match[1]):
        for rest in _braces(tail):
            yield head + choice + rest


def _choices(text):
    bounds = _RANGE.fullmatch(text)
    if bounds is None:
        return text.split(",")
    first, last = (int(number) for number in bounds.groups())
    if last < first:
        raise UserError(f"expected a range upward, got {{{text}}}: swap its ends")
    return (str(number).zfill(len(bounds[1])) for number in range(first, last + 1))


def _glob(path):
    path = expand_home(path)
    if not any(mark in path for mark in "*?[") or (is_local(path) and os.path.exists(path)):
        return [path]
    system, name = file_system(path)
    with storage_errors(path):
        found = sorted(system.glob(name))
    if not found:
        raise UserError(f"expected files that match {path}, found none: check the pattern")
    return found if is_local(path) else [system.unstrip_protocol(match) for match in found]
