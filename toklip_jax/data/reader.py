"""Reads the sample at an index and transforms it, or the next one where that can't be read."""

from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample, Problem
from toklip_jax.data.transforms import Sample, Transform

KEY, SKIPPED = "_key", "_skipped"  # in a sample; they become a batch's `keys` and `skipped`
MAX_TRIES = 100  # a longer run of bad samples is a fault of the data set


class Reader:
    """Reads and transforms samples, and replaces bad ones.

    What replaces a bad sample depends on the source alone, not on workers or hosts, so that batches
    stay full and the same. Samples of a source with `key(index)` also carry their name, and the
    names and causes of the bad samples that they replace.
    """

    def __init__(self, source: Any, transform: Transform | None):
        self.source, self.transform = source, transform

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        """Returns the sample at `index`, or the first good one after it.

        Raises:
            ValueError: none of the next `MAX_TRIES` is good; lists them. Or a sample is bad whose
                source has no names.
        """
        skipped: list[Problem] = []
        for _ in range(min(MAX_TRIES, len(self.source))):
            try:
                sample = self._read(index, rng)
            except BadSample as error:
                if not hasattr(self.source, "key"):
                    raise UserError(
                        f"expected a good sample at {index}, got one with: {error.cause}; to skip "
                        f"it, its source needs a key(index), by which it is reported"
                    ) from error
                skipped.append((key_of(self.source, index), error.cause))
                index = following(self.source, index)
            else:
                if not hasattr(self.source, "key"):
                    return sample
                return sample | {KEY: self.source.key(index), SKIPPED: skipped}
        names = "".join(f"\n  {key}: {cause}" for key, cause in skipped[:20])
        raise UserError(f"expected a good sample, got {len(skipped)} bad ones in a row:{names}")

    def _read(self, index, rng):
        sample = self.source[index]
        return sample if self.transform is None else self.transform(sample, rng)


def key_of(source: Any, index: int) -> str:
    """Returns a sample's name, or its index where the source has no names."""
    return source.key(index) if hasattr(source, "key") else str(index)


def following(source: Any, index: int) -> int:
    """Returns the index whose sample replaces a bad one."""
    if hasattr(source, "following"):
        return source.following(index)
    return (index + 1) % len(source)
