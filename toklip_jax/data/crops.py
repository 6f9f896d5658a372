"""The crops that are encoded into a cache; each depends on seed, sample and crop number alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toklip_jax.data.offsets import Offsets
from toklip_jax.data.reader import key_of
from toklip_jax.data.transforms import Sample, Transform

INDEX = "_index"  # in a sample: its index in the whole source


class SourceSlices:
    """Ranges of a source, one after another; each sample carries its index in the source."""

    def __init__(self, source: Any, ranges: Sequence[range]):
        self._source, self._ranges = source, list(ranges)
        self._offsets = Offsets(map(len, ranges))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        source_index = self._source_index(index)
        return self._source[source_index] | {INDEX: source_index}

    def key(self, index: int) -> str:
        return key_of(self._source, self._source_index(index))

    def _source_index(self, index):
        part, row = self._offsets.place(index)
        return self._ranges[part][row]


class CropSampler:
    """Takes all crops of a sample of `SourceSlices`.

    The result has `images` uint8 [crops, h, w, 3], `token_ids` int32 [crops or 1, t], `labels`
    int32, `index` int64, and `caption`, the text; `index` and those that the sample has.
    """

    def __init__(self, transform: Transform, crops: int, seed: int, has_one_text: bool):
        """Wraps a transform.

        Args:
            transform: called once for each crop, with a generator seeded by seed, sample and crop.
            has_one_text: whether all crops have the same token ids.
        """
        self.transform, self.crops, self.seed = transform, crops, seed
        self.has_one_text = has_one_text

    def __call__(self, record: Sample, rng: np.random.Generator) -> Sample:
        index = record[INDEX]
        seeds = ([self.seed, index, crop] for crop in range(self.crops))
        crops = [self.transform(record, np.random.default_rng(seed)) for seed in seeds]
        sample = {"images": np.stack([crop["images"] for crop in crops]), "index": np.int64(index)}
        if "labels" in crops[0]:
            sample["labels"] = np.int32(crops[0]["labels"])
        if "token_ids" in crops[0]:
            texts = crops[:1] if self.has_one_text else crops
            sample["token_ids"] = np.stack([crop["token_ids"] for crop in texts])
            if "text" in record:  # it has ids, so it is valid text
                text = record["text"]
                sample["caption"] = np.array(text.decode() if isinstance(text, bytes) else text)
        return sample
