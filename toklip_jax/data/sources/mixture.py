"""Several sources as one, drawn from by weight."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.health import BadSample, Problem
from toklip_jax.data.labels import label_of
from toklip_jax.data.offsets import Offsets
from toklip_jax.data.reader import following, key_of
from toklip_jax.data.sources.base import PARTS, Source, SourceKind, weighted_parts
from toklip_jax.data.text import TextTokenizer

LABELS = ("label", "labels")  # of records, and of arrays


class Mixture:
    """The samples of all parts, one part after another; training draws them by `weights`.

    Each part has its own order and its own epochs: a part that is small for its weight is repeated
    more often. Evaluation reads all samples once and ignores the weights.

    Attributes:
        starts: index at which each part begins.
        problems: the problems of all parts.
        classes: names of the labels, if all parts know theirs; parts that number them otherwise
            get the numbers of this list. None if some don't know.
        has_labels: whether all parts have labels.
    """

    def __init__(self, parts: Sequence[Source], weights: Sequence[float]):
        """Joins sources.

        Args:
            weights: each part's share of the samples; they need not add up to 1.

        Raises:
            ValueError: no parts, an empty one, or weights that don't fit or aren't positive.
        """
        is_positive = all(w > 0 for w in weights) and sum(weights) < math.inf
        is_fit = len(parts) == len(weights) and is_positive
        if not parts or not is_fit:
            raise UserError(
                f"expected parts with a positive weight each, got {len(parts)} with {weights}"
            )
        if empty := [i for i, part in enumerate(parts) if len(part) == 0]:
            raise UserError(f"expected samples in each part, got none in number {empty[0]}")
        self.parts, self.weights = tuple(parts), tuple(map(float, weights))
        self._offsets = Offsets(len(part) for part in parts)
        self.starts = self._offsets.starts[:-1]
        found = [getattr(part, "problems", []) for part in parts]
        self.problems: list[Problem] = list(itertools.chain(*found))
        self.has_labels = all(getattr(part, "has_labels", False) for part in parts)
        self.classes, self._renumbered = _join_classes(parts)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, row = self._offsets.place(index)
        sample = self.parts[part][row]
        if self._renumbered is None:
            return sample
        places = self._renumbered[part]
        return sample | {n: _renumber(sample[n], places) for n in LABELS if n in sample}

    def key(self, index: int) -> str:
        """Returns the name that the part gives the sample."""
        part, row = self._offsets.place(index)
        return key_of(self.parts[part], row)

    def identity(self) -> list[str]:
        """Returns the fingerprint of each part."""
        return [data_fingerprint(part) for part in self.parts]

    def following(self, index: int) -> int:
        """Returns the index whose sample replaces a bad one: the next one of its part."""
        part, row = self._offsets.place(index)
        return self.starts[part] + following(self.parts[part], row)


def _join_classes(parts):
    """Returns the names of all parts' classes, and for each part the new number of each label."""
    names = [getattr(part, "classes", None) for part in parts]
    if not all(names):
        return None, None
    joined = tuple(dict.fromkeys(itertools.chain(*names)))
    places = {name: place for place, name in enumerate(joined)}
    return joined, [np.array([places[name] for name in own], np.int32) for own in names]


def _renumber(label, places):
    """The place of a label's class; None for one of no class, such as -1 for images without."""
    try:
        number = label_of(label)
    except BadSample:
        return None
    return places[number] if 0 <= number < len(places) else None


def open_mixture(
    parts: Sequence[Mapping[str, Any]], *, tokenizer: TextTokenizer | None = None
) -> Mixture:
    """Opens several sources as one.

    Args:
        parts: configs like any other, each with a `weight` beside.
    """
    weights, configs = zip(*weighted_parts(parts), strict=True)
    return Mixture([config.open(tokenizer) for config in configs], weights)


MIXTURE = SourceKind("mixture", open_mixture, PARTS)
