"""Measures how much of its codebooks a tokenizer uses."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import numpy as np
from jaxtyping import Bool, Int

from toklip_jax.core.errors import UserError
from toklip_jax.metrics.state import AnyArray, State


class UsageSummary(NamedTuple):
    """The use of one codebook, or of several together.

    Attributes:
        usage: share of the codes that are used at least once; of several codebooks, the share of
            all their codes.
        perplexity: exp of the entropy (nats) of the codes' frequencies, which is how many equally
            frequent codes would have the same entropy; of several codebooks, the geometric mean.
    """

    usage: float
    perplexity: float


@flax.struct.dataclass
class CodeUsage(State):
    """One histogram of ids for each codebook, int64 [z] each.

    Codebooks are counted apart: with q of them, the combinations are too many to count.
    """

    counts: tuple[Int[np.ndarray, "_"], ...]

    @classmethod
    def empty(cls, codebook_sizes: Sequence[int]) -> "CodeUsage":
        return cls(counts=tuple(np.zeros(size, np.int64) for size in codebook_sizes))

    @classmethod
    def from_ids(
        cls,
        ids: Int[AnyArray, "b n *q"],
        codebook_sizes: Sequence[int],
        mask: Bool[AnyArray, " b"] | None = None,
    ) -> "CodeUsage":
        """Counts the ids of the images where `mask` is True.

        Args:
            ids: [b, n] of one codebook, or [b, n, q] of q.
            codebook_sizes: the number of codes in each.

        Raises:
            ValueError: an id is outside its codebook, or the ids are of another number of
                codebooks.
        """
        ids = np.asarray(ids) if mask is None else np.asarray(ids)[np.asarray(mask)]
        per_place = ids.shape[2] if ids.ndim == 3 else 1
        if ids.ndim not in (2, 3) or per_place != len(codebook_sizes):
            raise UserError(
                f"expected ids of {len(codebook_sizes)} codebooks, got {list(ids.shape)}: pass "
                f"[b, n] for one codebook, [b, n, q] for q"
            )
        columns = np.moveaxis(ids.reshape(*ids.shape[:2], per_place), -1, 0)  # [q, b, n]
        pairs = zip(columns, codebook_sizes, strict=True)
        return cls(counts=tuple(_histogram(column, size) for column, size in pairs))

    def compute(self) -> UsageSummary:
        """Returns the summary of all codebooks; both figures are 0 where nothing was counted."""
        if len(self.counts) == 1:
            return _summary(self.counts[0])
        parts = self.per_codebook()
        if not any(part.usage for part in parts):
            return UsageSummary(0.0, 0.0)
        usage = float(np.mean(np.concatenate(self.counts) > 0))
        return UsageSummary(usage, float(np.exp(np.mean(np.log([p.perplexity for p in parts])))))

    def per_codebook(self) -> list[UsageSummary]:
        """Returns the summary of each codebook."""
        return [_summary(counts) for counts in self.counts]


def _histogram(ids, size):
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise UserError(
            f"expected ids in [0, {size}), got {ids.min()} to {ids.max()}: "
            "pass the size of the codebook that made them"
        )
    return np.bincount(ids.ravel(), minlength=size).astype(np.int64)


def _summary(counts) -> UsageSummary:
    total = counts.sum()
    if total == 0:
        return UsageSummary(0.0, 0.0)
    frequencies = counts[counts > 0] / total
    entropy = -np.sum(frequencies * np.log(frequencies))
    return UsageSummary(float(np.mean(counts > 0)), float(np.exp(entropy)))
