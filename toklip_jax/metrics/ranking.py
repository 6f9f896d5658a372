"""Top-k metrics: accuracy of classification and recall of retrieval are the same count.

Both ask at which rank the right answer stands; a hit at k is a rank (from 0) below k.
"""

import math

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.metrics.state import AnyArray, Estimate, State


@flax.struct.dataclass
class TopK(State):
    """Hits among the first k answers, for several k: top-k accuracy, or recall@k."""

    ks: tuple[int, ...] = flax.struct.field(pytree_node=False)
    hits: Int[np.ndarray, " k"]
    count: int

    @classmethod
    def empty(cls, ks: tuple[int, ...] = (1, 5)) -> "TopK":
        return cls(ks=ks, hits=np.zeros(len(ks), np.int64), count=0)

    @classmethod
    def from_ranks(
        cls,
        ranks: Int[AnyArray, " b"],
        ks: tuple[int, ...] = (1, 5),
        mask: Bool[AnyArray, " b"] | None = None,
    ) -> "TopK":
        """Counts ranks (0 is best) where `mask` is True."""
        ranks = np.asarray(ranks) if mask is None else np.asarray(ranks)[np.asarray(mask)]
        hits = np.array([np.count_nonzero(ranks < k) for k in ks], np.int64)
        return cls(ks=ks, hits=hits, count=len(ranks))

    @classmethod
    def from_logits(
        cls,
        logits: Float[AnyArray, "b c"],
        labels: Int[AnyArray, " b"],
        ks: tuple[int, ...] = (1, 5),
        mask: Bool[AnyArray, " b"] | None = None,
    ) -> "TopK":
        """Counts how often the label is among the k largest logits."""
        return cls.from_ranks(
            best_ranks(jnp.asarray(logits), jnp.asarray(labels)[:, None]), ks, mask
        )

    def compute(self) -> dict[int, Estimate]:
        """Returns, per k, the share p of hits and its standard error sqrt(p (1 - p) / n)."""
        return {k: share(int(h), self.count) for k, h in zip(self.ks, self.hits, strict=True)}


def share(hits: int, count: int) -> Estimate:
    """Returns hits / count and its standard error; NaN where nothing was counted."""
    if count == 0:
        return Estimate(math.nan)
    p = hits / count
    return Estimate(p, math.sqrt(max(p * (1 - p), 0.0) / count))


def best_ranks(scores: Float[Array, "b s"], positives: Int[Array, "b p"]) -> Int[Array, " b"]:
    """Returns the rank, from 0, of each row's best-scored right answer, int32.

    Rank = how many answers score higher, or score the same at a lower index. A row ranks last if a
    right answer scores NaN (a model that diverged must not look perfect) or is not among the
    answers (a class that a probe never saw).

    Args:
        scores: one row per query, higher is better.
        positives: indices of the right answers in each row, padded with -1; at least one a row.
    """
    num_answers = scores.shape[-1]
    is_padding = positives < 0
    candidates = jnp.take_along_axis(
        scores, jnp.maximum(positives, 0), axis=-1, mode="fill", fill_value=jnp.nan
    )
    candidates = jnp.where(is_padding, -jnp.inf, candidates)
    best = jnp.max(candidates, axis=-1, keepdims=True)
    is_best = (candidates == best) & ~is_padding
    first = jnp.min(jnp.where(is_best, positives, num_answers), axis=-1, keepdims=True)
    is_not_ahead = (scores < best) | ((scores == best) & (jnp.arange(num_answers) >= first))
    return num_answers - jnp.sum(is_not_ahead, axis=-1, dtype=jnp.int32)
