"""Figures of generated images beside FID: inception score, precision and recall."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from toklip_jax.core.errors import UserError

SPLIT = 5000  # samples of a split of the inception score, the ADM evaluator's
ROWS = 1024  # points whose distances are held at a time


def inception_score(probabilities: Float[np.ndarray, "n c"], split_size: int = SPLIT) -> float:
    """Returns exp of the mean of KL(p(y|x) | p(y)), averaged over splits (arXiv 1606.03498).

    The ADM evaluator's: splits in the order of the samples, the last may be shorter, all count
    alike. A probability of exactly 0 gives NaN there and here; a softmax has none.

    Raises:
        ValueError: no samples, or a split size below 1.
    """
    if len(probabilities) == 0 or split_size < 1:
        raise UserError(
            f"expected samples and a split_size of at least 1, got {len(probabilities)} and "
            f"{split_size}"
        )
    scores = []
    for start in range(0, len(probabilities), split_size):
        part = probabilities[start : start + split_size].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(kl.sum(axis=1).mean()))
    return float(np.mean(scores))


class PrecisionRecall(NamedTuple):
    """Shares: of samples that lie near real images, and of real images that lie near samples."""

    precision: float
    recall: float


def precision_recall(
    real: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], k: int = 3
) -> PrecisionRecall:
    """Returns the improved precision and recall of samples (arXiv 1904.06991).

    A point lies in a set's manifold where its distance to some member is at most that member's
    radius, the distance to its k-th nearest neighbour in its own set. Both are NaN where a number
    is not finite.

    Raises:
        ValueError: features of other widths, or a set of k points or fewer.
    """
    if real.ndim != 2 or samples.ndim != 2 or real.shape[1] != samples.shape[1]:
        raise UserError(f"expected features of one width, got {real.shape} and {samples.shape}")
    if k < 1 or min(len(real), len(samples)) <= k:
        raise UserError(
            f"expected k of at least 1 and more than k features in each set, got k {k} and "
            f"{len(real)} and {len(samples)} features"
        )
    if not (np.isfinite(real).all() and np.isfinite(samples).all()):
        return PrecisionRecall(float("nan"), float("nan"))
    radii = {name: _radii(points, k) for name, points in (("real", real), ("samples", samples))}
    precision = _is_inside(samples, real, radii["real"]).mean()
    recall = _is_inside(real, samples, radii["samples"]).mean()
    return PrecisionRecall(float(precision), float(recall))


def _radii(points, k) -> Float[np.ndarray, " n"]:
    """Squared distances to the k-th neighbour; the point itself is number 0."""
    return np.concatenate(
        [
            np.partition(_squared_distances(points[start : start + ROWS], points), k, axis=1)[:, k]
            for start in range(0, len(points), ROWS)
        ]
    )


def _is_inside(points, members, radii) -> Bool[np.ndarray, " n"]:
    return np.concatenate(
        [
            (_squared_distances(points[start : start + ROWS], members) <= radii).any(axis=1)
            for start in range(0, len(points), ROWS)
        ]
    )


def _squared_distances(a, b) -> Float[np.ndarray, "n m"]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    distances = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return np.maximum(distances, 0)
