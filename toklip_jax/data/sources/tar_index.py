"""The offset of each sample in a WebDataset tar, from one scan of its headers, kept in a file.

An index is named by all that it depends on: the tar with its size and time, the extensions, and the
layout of indexes. So tars that change, and sources with other extensions, have indexes of their
own, and none is replaced while a run is reading it. `x.tar.HASH.index.npy` holds the rows, which
workers map into memory, and `x.tar.HASH.index.json` says what they depend on and what was left out.
Both are beside the tar, or in a cache directory if the tar is remote or its directory is not
writable.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import Problem
from toklip_jax.data.paths import (
    base_name,
    expand_home,
    file_state,
    file_system,
    is_local,
    open_file,
)
from toklip_jax.data.sources.tar_members import read_members
from toklip_jax.data.sources.tar_samples import FIELDS, Extensions, Samples, read_samples

logger = logging.getLogger(__name__)

_VERSION = 2  # of the index's layout, and of the rules that make samples of members
_BLOCK = 2**23  # bytes read ahead from remote files
_ABSENT = (0, -1)  # offset and size


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """An index on disk.

    Attributes:
        path: the path of an array of rows `key` (bytes) and, for each of `FIELDS`, offset and size
            int64; a size of -1 where the tar has none.
        samples: number of rows.
        labels: rows with a label.
        problems: names and causes of what is left out of the tar.
        state: `paths.file_state` of the tar when it was scanned.
        crc32: of the array's file, so of all keys and places.
    """

    path: str
    samples: int
    labels: int
    problems: tuple[Problem, ...]
    state: Mapping[str, Any]
    crc32: int


def load_index(
    tar: str, extensions: Extensions, directory: str | pathlib.Path | None = None
) -> TarIndex:
    """Returns the index of a tar, from its file if there is a sound one, else by a scan.

    Args:
        directory: where indexes are kept; None for beside the tar, or, if that can't be written,
            `~/.cache/toklip_jax/indexes`.

    Raises:
        FileNotFoundError: there is no such tar.
        ValueError: no index can be written.
    """
    state = file_state(tar)
    depends = state | {field: list(getattr(extensions, field)) for field in FIELDS}
    depends |= {"layout": _VERSION}
    places = _places(tar, depends, directory)
    for stem in places:
        if (index := _read(stem, depends, state)) is not None:
            return index
    logger.info("scanning %s for its index", tar)
    samples = scan(tar, extensions)
    for stem in places:
        try:
            return _write(stem, depends, state, samples)
        except OSError as error:
            logger.info("no index beside %s: %s", tar, error)
    raise UserError(f"expected to write an index of {tar} to {places[-1]}: pass index_dir")


def scan(tar: str, extensions: Extensions) -> Samples:
    """Reads a tar's headers."""
    size = file_state(tar)["size"]
    with open_file(tar, _BLOCK) as file:
        return read_samples(read_members(file, size), extensions, base_name(tar))


def _rows(samples: Samples) -> np.ndarray:
    # Names that aren't UTF-8 have surrogates.
    keys = [key.encode("utf-8", "surrogateescape") for key, _ in samples.rows]
    places = [(field, np.int64, (2,)) for field in FIELDS]
    rows = np.zeros(len(keys), [("key", f"S{max(map(len, keys), default=1) or 1}"), *places])
    rows["key"] = keys
    for field in FIELDS:
        found = [fields.get(field, _ABSENT) for _, fields in samples.rows]
        rows[field] = np.array(found, np.int64).reshape(-1, 2)
    return rows


def _places(tar, depends, directory):
    """Returns an index's possible paths, without suffix, in the order that they are tried in."""
    cached = f"{base_name(tar)}.{_hash([_full_name(tar), depends])}.index"
    if directory is not None:
        return [pathlib.Path(expand_home(directory)) / cached]
    beside = [pathlib.Path(f"{tar}.{_hash(depends)}.index")] if is_local(tar) else []
    return [*beside, pathlib.Path.home() / ".cache/toklip_jax/indexes" / cached]


def _hash(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _full_name(tar):
    if is_local(tar):
        return os.path.abspath(tar)
    system, name = file_system(tar)
    return system.unstrip_protocol(name)  # the same, however the URL is spelled


def _read(stem, depends, state) -> TarIndex | None:
    """Returns an index from its files; None if they are missing, damaged or of something else."""
    path = f"{stem}.npy"
    try:
        about = json.loads(pathlib.Path(f"{stem}.json").read_text())
        if about["tar"] != depends or about["crc32"] != _crc32(path):
            return None
        problems = tuple((str(name), str(cause)) for name, cause in about["problems"])
        samples, labels = int(about["samples"]), int(about["labels"])
        return TarIndex(path, samples, labels, problems, state, about["crc32"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(stem, depends, state, samples: Samples) -> TarIndex:
    """Writes the array first, as the description makes it valid; each file is written whole."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    rows, path = _rows(samples), f"{stem}.npy"
    labels = int(np.count_nonzero(rows["label"][:, 1] >= 0))
    draft = f"{stem}.{uuid.uuid4().hex}.part"  # other hosts may be writing it too
    try:
        with open(draft, "wb") as file:
            np.save(file, rows)
        about = {"tar": depends, "samples": len(rows), "labels": labels}
        about |= {"problems": samples.problems, "crc32": (crc32 := _crc32(draft))}
        os.replace(draft, path)
        pathlib.Path(draft).write_text(json.dumps(about))
        os.replace(draft, f"{stem}.json")
    except OSError:
        pathlib.Path(draft).unlink(missing_ok=True)
        raise
    return TarIndex(path, len(rows), labels, tuple(samples.problems), state, crc32)


def _crc32(path):
    return zlib.crc32(pathlib.Path(path).read_bytes())
