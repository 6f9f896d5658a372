"""What is encoded of a data set: random crops that depend on seed, sample and crop alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toklip_jax.data.offsets import Offsets
from toklip_jax.data.reader import key_of
from toklip_jax.data.transforms import Sample, Transform

INDEX = "_index"  # of a sample: its place in the source


class Ranges:
    """Parts of a source, one after another, each sample with its place in the source."""

    def __init__(self, source: Any, ranges: Sequence[range]):
        self._source, self._ranges = source, list(ranges)
        self._offsets = Offsets(map(len, ranges))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        place = self._place(index)
        return self._source[place] | {INDEX: place}

    def key(self, index: int) -> str:
        return key_of(self._source, self._place(index))

    def _place(self, index):
        part, row = self._offsets.place(index)
        return self._ranges[part][row]


class Draws:
    """Makes all crops of a sample of `Ranges`: `images` uint8 [crops, s, s, 3], and the rest once.

    `token_ids` are int32 [crops or 1, t], `labels` int32, `index` int64, and `caption` the text.
    """

    def __init__(self, transform: Transform, crops: int, seed: int, has_one_text: bool):
        """Wraps a transform.

        Args:
            transform: called once a crop, with a generator made of seed, sample and crop.
            has_one_text: all crops have the same token ids.
        """
        self.transform, self.crops, self.seed = transform, crops, seed
        self.has_one_text = has_one_text

    def __call__(self, record: Sample, rng: np.random.Generator) -> Sample:
        index = record[INDEX]
        seeds = ([self.seed, index, crop] for crop in range(self.crops))
        drawn = [self.transform(record, np.random.default_rng(seed)) for seed in seeds]
        sample = {"images": np.stack([one["images"] for one in drawn]), "index": np.int64(index)}
        if "labels" in drawn[0]:
            sample["labels"] = np.int32(drawn[0]["labels"])
        if "token_ids" in drawn[0]:
            texts = drawn[:1] if self.has_one_text else drawn
            sample["token_ids"] = np.stack([one["token_ids"] for one in texts])
            if "text" in record:  # and it is good, as it has ids
                text = record["text"]
                sample["caption"] = np.array(text.decode() if isinstance(text, bytes) else text)
        return sample
