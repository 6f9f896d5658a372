"""Image-text pairs in WebDataset tars, as img2dataset writes them, by random access."""

import concurrent.futures
import dataclasses
import logging
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.data.health import BadSample, Problem, shown
from toklip_jax.data.offsets import Offsets
from toklip_jax.data.paths import RangeReader, base_name, expand, expect_unchanged
from toklip_jax.data.sources.base import ENCODED, SourceKind
from toklip_jax.data.sources.records import MAX_IMAGE_BYTES, errors_are_bad_samples
from toklip_jax.data.sources.tar_index import TarIndex, load_index
from toklip_jax.data.sources.tar_samples import FIELDS, Extensions
from toklip_jax.parallel.progress import Progress

logger = logging.getLogger(__name__)

_SCANS = 8  # threads; they wait for storage
_GAP = 2**14  # bytes between two members up to which one read fetches both

# numpy parses a file's header with `ast`, which Python 3.11 can't do in two threads at once
# (cpython issue 106905).
_LOADING = threading.Lock()


class WebDatasetSource:
    """Records of `image` and, where the tar has them, `text` and `label`, all as bytes.

    Attributes:
        problems: names and causes of what is left out of the tars.
        has_labels: whether every sample has a label.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        extensions: Extensions | None = None,
        index_dir: str | pathlib.Path | None = None,
    ):
        """Finds the samples of all shards; scans those that have no index yet.

        Args:
            shards: paths or patterns as for `paths.expand`.
            index_dir: see `tar_index.load_index`.

        Raises:
            FileNotFoundError: shards that don't exist; names them.
            ValueError: patterns that name none, or no sample in any.
        """
        self.shards = expand(shards)
        indexes = _load_all(self.shards, extensions or Extensions(), index_dir)
        self._offsets = Offsets(index.samples for index in indexes)
        self.problems: list[Problem] = [p for index in indexes for p in index.problems]
        self.has_labels = sum(index.labels for index in indexes) == len(self)
        # Workers get no problems.
        self._indexes = [dataclasses.replace(index, problems=()) for index in indexes]
        self._reader, self._rows = RangeReader(), {}
        logger.info("%d samples in %d tars", len(self), len(self.shards))
        if len(self) == 0:
            raise UserError(
                f"expected samples in {shards!r}, found none in {len(self.shards)} shards: check "
                f"that they are uncompressed tars with {extensions or Extensions()}"
                f"{_first(self.problems)}"
            )

    def __len__(self) -> int:
        return len(self._offsets)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": {}}  # each process maps the files itself

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record.

        Raises:
            BadSample: it has no image, or one that can't be read.
            ValueError: the tar was replaced since it was opened.
        """
        shard, row = self._row(index)
        places = {field: row[field].tolist() for field in FIELDS if row[field][1] >= 0}
        if "image" not in places:
            raise BadSample("missing image")
        if max(size for _, size in places.values()) > MAX_IMAGE_BYTES:
            raise BadSample("too large a file")
        with errors_are_bad_samples():
            return self._read(self.shards[shard], places)

    def key(self, index: int) -> str:
        """Returns the sample's name, such as "00012.tar:000123456"."""
        shard, row = self._row(index)
        name = row["key"].decode("utf-8", "backslashreplace")
        return f"{base_name(self.shards[shard])}:{name}"

    def identity(self) -> list[int]:
        """Returns a checksum of each tar's keys and places."""
        return [index.crc32 for index in self._indexes]

    def _row(self, index):
        shard, row = self._offsets.place(index)
        if shard not in self._rows:
            expect_unchanged(self.shards[shard], self._indexes[shard].state)
            with _LOADING:
                self._rows[shard] = np.load(self._indexes[shard].path, mmap_mode="r")
        return shard, self._rows[shard][row]

    def _read(self, path, places):
        start = min(offset for offset, _ in places.values())
        end = max(offset + size for offset, size in places.values())
        if end - start > sum(size for _, size in places.values()) + _GAP:
            return {f: self._reader.read(path, *place) for f, place in places.items()}
        data = self._reader.read(path, start, end - start)
        return {f: data[at - start : at - start + size] for f, (at, size) in places.items()}


def open_webdataset(
    shards: str | Sequence[str],
    image: tuple[str, ...] = Extensions.image,
    text: tuple[str, ...] = Extensions.text,
    label: tuple[str, ...] = Extensions.label,
    index_dir: str | None = None,
) -> WebDatasetSource:
    """Opens tars as img2dataset writes them.

    Args:
        shards: such as "gs://bucket/cc12m/{00000..00331}.tar", or several.
        image: extensions; `text` and `label` likewise.
        index_dir: where indexes are kept; None for beside the shards, or the user's cache.
    """
    return WebDatasetSource(shards, Extensions(tuple(image), tuple(text), tuple(label)), index_dir)


WEBDATASET = SourceKind("webdataset", open_webdataset, ENCODED)


def _first(problems):
    if not problems:
        return ""
    key, cause = problems[0]
    return f" ({len(problems)} problems, first {shown(key)}: {cause})"


def _load_all(shards, extensions, index_dir) -> list[TarIndex]:
    def load(path):
        try:
            return load_index(path, extensions, index_dir)
        except FileNotFoundError:
            return None

    indexes = []
    scans = concurrent.futures.ThreadPoolExecutor(_SCANS)
    with scans as pool, Progress("index", len(shards), unit="tar") as progress:
        for index in pool.map(load, shards):
            indexes.append(index)
            progress.advance()
    if missing := [path for path, index in zip(shards, indexes, strict=True) if index is None]:
        raise NotFound(
            f"expected {len(shards)} shards, found no file for {len(missing)} of them: "
            f"{', '.join(missing[:10])}: check the path and the range"
        )
    return indexes
