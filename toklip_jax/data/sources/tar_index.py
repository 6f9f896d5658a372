"""The offset of each sample in a WebDataset tar, from one scan of its headers, kept in a file.

The index of `x.tar` is `x.tar.index.npy`, which workers map into memory, and `x.tar.index.json`,
which says which tar it is for and what was broken in it. Both are beside the tar, or in a cache
directory if the tar is remote or its directory is not writable.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import tarfile
import uuid
from typing import Any

import numpy as np

from toklip_jax.data.health import Problem
from toklip_jax.data.paths import base_name, file_state, file_system, is_local

logger = logging.getLogger(__name__)

FIELDS = ("image", "text", "label")
BROKEN = "broken tar tail"
_VERSION = 1  # of the index's layout
_BLOCK = 2**23  # bytes read ahead from remote files
_ABSENT = (0, -1)  # offset and size


@dataclasses.dataclass(frozen=True)
class Extensions:
    """Which members of a tar make a sample, by what follows the first dot of their names."""

    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    text: tuple[str, ...] = ("txt",)
    label: tuple[str, ...] = ("cls",)

    def field_of(self, extension: str) -> str | None:
        return next((f for f in FIELDS if extension.lower() in getattr(self, f)), None)


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """An index on disk.

    Attributes:
        path: the path of an array of rows `key` (bytes) and, for each of `FIELDS`, offset and size
            int64; a size of -1 where the tar has none.
        samples: number of rows.
        problems: broken samples of the tar.
    """

    path: str
    samples: int
    problems: tuple[Problem, ...]


def load_index(
    tar: str, extensions: Extensions, directory: str | pathlib.Path | None = None
) -> TarIndex:
    """Returns the index of a tar, from the file if that is up to date, else by a scan.

    Args:
        directory: where indexes are kept; None for beside the tar, or, if that can't be written,
            `~/.cache/toklip_jax/indexes`.

    Raises:
        FileNotFoundError: there is no such tar.
        ValueError: no index can be written.
    """
    state = file_state(tar) | dataclasses.asdict(extensions) | {"layout": _VERSION}
    state = json.loads(json.dumps(state))  # tuples become lists, as they come back
    places = _places(tar, directory)
    for stem in places:
        if (index := _read(stem, state)) is not None:
            return index
    logger.info("scanning %s for its index", tar)
    rows, problems = scan(tar, extensions)
    for stem in places:
        try:
            return _write(stem, state, rows, problems)
        except OSError as error:
            logger.info("no index beside %s: %s", tar, error)
    raise ValueError(f"expected to write an index of {tar} to {places[-1]}: pass index_dir")


def scan(tar: str, extensions: Extensions) -> tuple[np.ndarray, list[Problem]]:
    """Reads a tar's headers; returns rows as in `TarIndex`, and what is broken."""
    size = file_state(tar)["size"]
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    problems, end = [], 0
    with _open(tar) as file:
        last = None
        for member in _members(file):
            key, extension = _split(member.name)
            end = member.offset_data + member.size
            if end > size:
                last, end = key, None
                break
            last = key
            if member.isfile() and (field := extensions.field_of(extension)):
                samples.setdefault(key, {}).setdefault(field, (member.offset_data, member.size))
        if end is None or not _ends_well(file, end, size):
            problems = _cut(samples, last, base_name(tar))
    return _rows(samples), problems


def _members(file):
    """Yields the readable members; tarfile ends silently at some faults and raises at others."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep all
                yield member
    except tarfile.TarError:
        return


def _ends_well(file, end, size):
    """Says whether the end mark, zeros, follows the last member."""
    start = -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    file.seek(start)
    block = file.read(min(tarfile.BLOCKSIZE, max(0, size - start)))
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _cut(samples, last, name):
    """Removes the sample at which the tar breaks, as parts of it may be missing."""
    samples.pop(last, None)
    return [(f"{name}:{last}" if last is not None else name, BROKEN)]


def _rows(samples):
    # Names that aren't UTF-8 come from tarfile with surrogates.
    keys = [key.encode("utf-8", "surrogateescape") for key, parts in samples.items() if parts]
    width = max(map(len, keys), default=1)
    places = [(field, np.int64, (2,)) for field in FIELDS]
    rows = np.zeros(len(keys), [("key", f"S{max(width, 1)}"), *places])
    rows["key"] = keys
    for field in FIELDS:
        found = [parts.get(field, _ABSENT) for parts in samples.values() if parts]
        rows[field] = np.array(found, np.int64).reshape(-1, 2)
    return rows


def _split(name):
    """Splits a name into key and extension at its base name's first dot, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _open(tar) -> Any:
    if is_local(tar):
        return open(tar, "rb")
    system, name = file_system(tar)
    return system.open(name, "rb", block_size=_BLOCK)


def _places(tar, directory):
    """Returns an index's possible paths, without suffix, in the order that they are tried in."""
    digest = hashlib.sha256(_full_name(tar).encode()).hexdigest()
    cached = f"{base_name(tar)}-{digest[:16]}.index"
    if directory is not None:
        return [pathlib.Path(directory).expanduser() / cached]
    beside = [pathlib.Path(f"{tar}.index")] if is_local(tar) else []
    return [*beside, pathlib.Path.home() / ".cache/toklip_jax/indexes" / cached]


def _full_name(tar):
    if is_local(tar):
        return os.path.abspath(tar)
    system, name = file_system(tar)
    return system.unstrip_protocol(name)  # the same, however the URL is spelled


def _read(stem, state):
    try:
        about = json.loads(pathlib.Path(f"{stem}.json").read_text())
    except (OSError, ValueError):
        return None
    if about.get("tar") != state or not os.path.exists(f"{stem}.npy"):
        return None
    return TarIndex(f"{stem}.npy", about["samples"], tuple(map(tuple, about["problems"])))


def _write(stem, state, rows, problems) -> TarIndex:
    """Writes the array first, as the description makes it valid; each replaces its old file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    about = {"tar": state, "samples": len(rows), "problems": problems}
    draft = f"{stem}.{uuid.uuid4().hex}.part"  # other hosts may be writing it too
    with open(draft, "wb") as file:
        np.save(file, rows)
    os.replace(draft, f"{stem}.npy")
    pathlib.Path(draft).write_text(json.dumps(about))
    os.replace(draft, f"{stem}.json")
    return TarIndex(f"{stem}.npy", len(rows), tuple(problems))
