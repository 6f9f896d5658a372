"""How much of a codebook is used."""

from typing import NamedTuple

import flax.struct
import numpy as np
from jaxtyping import Bool, Int

from toklip_jax.metrics.state import AnyArray, State


class UsageSummary(NamedTuple):
    """Code usage.

    Attributes:
        usage: share of the codes used at least once.
        perplexity: exp of the entropy (nats) of the codes' frequencies: as many equally used codes.
    """

    usage: float
    perplexity: float


@flax.struct.dataclass
class CodeUsage(State):
    """Histogram of ids over the codebook, int64 [z]."""

    counts: Int[np.ndarray, " z"]

    @classmethod
    def empty(cls, codebook_size: int) -> "CodeUsage":
        return cls(counts=np.zeros(codebook_size, np.int64))

    @classmethod
    def from_ids(
        cls,
        ids: Int[AnyArray, "b n"],
        codebook_size: int,
        mask: Bool[AnyArray, " b"] | None = None,
    ) -> "CodeUsage":
        """Counts the ids of the images where `mask` is True.

        Raises:
            ValueError: an id lies outside the codebook.
        """
        ids = np.asarray(ids) if mask is None else np.asarray(ids)[np.asarray(mask)]
        if ids.size and not 0 <= ids.min() <= ids.max() < codebook_size:
            raise ValueError(
                f"expected ids in [0, {codebook_size}), got {ids.min()} to {ids.max()}: "
                "pass the size of the codebook that made them"
            )
        return cls(counts=np.bincount(ids.ravel(), minlength=codebook_size).astype(np.int64))

    def compute(self) -> UsageSummary:
        """Returns the summary; both figures are 0 where nothing was counted."""
        total = self.counts.sum()
        if total == 0:
            return UsageSummary(0.0, 0.0)
        frequencies = self.counts[self.counts > 0] / total
        entropy = -np.sum(frequencies * np.log(frequencies))
        return UsageSummary(float(np.mean(self.counts > 0)), float(np.exp(entropy)))
