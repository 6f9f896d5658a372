"""Samples and transforms: a dict and a generator in, a dict out.

A sample is a dict of arrays under the names of a batch: `images` uint8, `token_ids` int32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Sample = dict[str, Any]
Transform = Callable[[Sample, np.random.Generator], Sample]


class Chain:
    """Applies one transform after another."""

    def __init__(self, *transforms: Transform):
        self.transforms = transforms

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class PickCaption:
    """Puts one of the sample's `captions` (int32 [captions, t]) under `token_ids`."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        captions = sample["captions"]
        rest = {name: value for name, value in sample.items() if name != "captions"}
        return rest | {"token_ids": captions[rng.integers(len(captions))]}


class FirstCaption:
    """Puts the first of the sample's `captions`, if there are any, under `token_ids`."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if "captions" not in sample:
            return sample
        rest = {name: value for name, value in sample.items() if name != "captions"}
        return rest | {"token_ids": sample["captions"][0]}
