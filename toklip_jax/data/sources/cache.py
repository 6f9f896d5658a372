"""A cache of ids as a source."""

import dataclasses
import os
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.cache import HEADER, Header, expect_complete, load_header
from toklip_jax.data.health import BadSample
from toklip_jax.data.offsets import Offsets
from toklip_jax.data.paths import expand_home
from toklip_jax.data.record_files import RecordFiles, count_records
from toklip_jax.data.sources.base import IDS, SourceKind
from toklip_jax.data.transforms import Sample

CROPS = "_crops"  # in a sample: all its crops; a leading underscore keeps it out of batches


class CacheSource:
    """A cache's images, each as `ids` int32 [n] or [n, q], and its other fields.

    `token_ids` are int32 [t], `labels` int32, `teacher_feature` and `text_feature` [d] in the type
    that they are stored in; the header's `names` say which there are. A sample is its first crop;
    `PickCrop` takes a random one.

    Attributes:
        header: the cache's.
        classes: names of the labels, or None if the cache does not know them.
    """

    def __init__(self, directory: str):
        """Opens a cache.

        Raises:
            FileNotFoundError: there is no cache.
            ValueError: it is damaged (names the file), not finished, or without a record.
        """
        directory = expand_home(directory)
        self.header = load_header(directory)
        self.classes = self.header.classes or None  # an empty list: names were not known
        paths = expect_complete(self.header, directory)
        counts = [count_records(path) for path in paths]
        for path, count in zip(paths, counts, strict=True):
            if count > self.header.records_per_shard:
                raise UserError(
                    f"expected at most {self.header.records_per_shard} records in {path}, got "
                    f"{count}: it is of another cache, or {HEADER} is damaged; encode again"
                )
        numbers = {path: number for number, path in enumerate(paths)}
        filled = [(path, n) for path, n in zip(paths, counts, strict=True) if n]
        if not filled:
            raise UserError(f"expected records in {directory}, found none: encode again")
        self._files = [path for path, _ in filled]
        self._offsets = Offsets(n for _, n in filled)
        self._records = RecordFiles(self._files)
        for path, first in zip(self._files, self._offsets.starts, strict=False):
            self._expect_fitting(path, first, numbers[path])

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample.

        Raises:
            BadSample: its record is damaged.
        """
        record = self._records[index]
        size, length = self.header.record_bytes, len(record)
        if length < size or (length > size and not self.header.has_captions):
            raise BadSample("damaged record")
        return self.header.read(record, 0) | {CROPS: _Crops(self.header, record)}

    def sample_of(self, index: int) -> int:
        """Returns the index in the encoded source, whose unreadable samples have no row.

        Raises:
            ValueError: the cache doesn't say.
        """
        for field in self.header.fields:
            if field.name == "index":
                return int(field.read(self._records[index], 0))
        raise UserError(
            "expected a cache with each record's index in its source, got one without: encode again"
        )

    def key(self, index: int) -> str:
        """Returns the shard's name and the row in it."""
        file, row = self._offsets.place(index)
        return f"{os.path.basename(self._files[file])}:{row}"

    def identity(self) -> list[Any]:
        """Returns the header, and the first index of each shard."""
        header = dataclasses.asdict(self.header) | {"toklip_jax": ""}
        return [header, self._offsets.starts]

    def _expect_fitting(self, path, first, number):
        """Checks a shard's first record: another cache's would give other images' ids, or none."""
        header = self.header
        try:
            sample = self[first]
        except BadSample:
            return
        sizes, ids = np.array(header.codebook_sizes), sample["ids"]
        if np.any(ids.reshape(-1, len(sizes)) >= sizes):
            raise UserError(
                f"expected ids below {header.codebook_sizes} in {path}, got {ids.max()}: it is of "
                f"another cache, or {HEADER} is damaged; encode again"
            )
        places = [field for field in header.fields if field.name == "index"]
        inside = range(number * header.records_per_shard, (number + 1) * header.records_per_shard)
        for index in (int(field.read(sample[CROPS].record, 0)) for field in places):
            if index not in inside:
                raise UserError(
                    f"expected samples {inside.start} to {inside.stop - 1} in {path}, got {index}: "
                    f"it is another shard; fetch it again, or encode again"
                )


class PickCrop:
    """Takes a random crop of a `CacheSource`'s sample."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        crops = sample[CROPS]
        if crops.header.crops == 1:
            return sample
        return crops.header.read(crops.record, int(rng.integers(crops.header.crops)))


@dataclasses.dataclass(frozen=True)
class _Crops:
    header: Header
    record: bytes


CACHE = SourceKind("cache", CacheSource, IDS)
