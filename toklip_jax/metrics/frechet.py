"""The Frechet distance between two sets of features, taken as Gaussians (FID, arXiv 1706.08500)."""

from typing import NamedTuple

import flax.struct
import numpy as np
from jaxtyping import Bool, Float

from toklip_jax.core.errors import UserError
from toklip_jax.metrics.state import AnyArray, State

ROWS = 4096  # features that are held in float64 at a time


class Gaussian(NamedTuple):
    """Mean and covariance of features, float64 [d] and [d, d]."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


@flax.struct.dataclass
class Frechet(State):
    """Features as their number n, their sum and the sum of their outer products.

    The covariance is (outer - sum sum^T / n) / (n - 1). That difference loses as many digits as
    mean^2 / variance has: a digit or two of float64's sixteen for Inception's features, which are
    not negative and spread about as far as their mean. Sums of raw values are what can be merged
    by adding; a shift would have to be agreed on by all hosts beforehand.
    """

    count: int
    total: Float[np.ndarray, " d"]
    outer: Float[np.ndarray, "d d"]

    @classmethod
    def empty(cls, dim: int) -> "Frechet":
        """Returns no features of length `dim`: 2048 for FID, 2023 for sFID."""
        return cls(count=0, total=np.zeros(dim), outer=np.zeros((dim, dim)))

    @classmethod
    def from_features(
        cls, features: Float[AnyArray, "b d"], mask: Bool[AnyArray, " b"] | None = None
    ) -> "Frechet":
        """Counts the features where `mask` is True; what it leaves out may be NaN."""
        features = np.asarray(features)
        features = features if mask is None else features[np.asarray(mask)]
        state = cls.empty(features.shape[1])
        count, total, outer = len(features), state.total, state.outer
        for start in range(0, count, ROWS):
            rows = features[start : start + ROWS].astype(np.float64)
            total += rows.sum(axis=0)
            outer += rows.T @ rows
        return cls(count=count, total=total, outer=outer)

    def statistics(self) -> Gaussian:
        """Returns mean and unbiased covariance (n - 1, as `np.cov`).

        Raises:
            ValueError: fewer than two features.
        """
        if self.count < 2:
            raise UserError(f"expected features of at least 2 images, got {self.count}")
        mean = self.total / self.count
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and so is the distance
            covariance = (self.outer - np.outer(self.total, mean)) / (self.count - 1)
        return Gaussian(mean, covariance)

    def compute(self) -> Gaussian:
        """Returns `statistics()`: the name that all states have for it."""
        return self.statistics()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Returns |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0.

    NaN where a number is not finite.

    With C = F F^T, the trace of the root is the sum of the singular values of F_a^T F_b, which are
    the roots of a symmetric matrix's eigenvalues: no matrix without real root appears, and with
    fewer features than dimensions the matrices are as small as the rank. Singular values below 1e-8
    of the largest are lost to rounding; Inception's are not that small.

    Args:
        a, b: of features of one kind; covariances are taken as symmetric.

    Raises:
        ValueError: they differ in dimension.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"expected features of one dimension, got {a.mean.shape[0]} and {b.mean.shape[0]}"
        )
    if not all(np.isfinite(x).all() for x in (*a, *b)):
        return float("nan")
    product = _factor(a.covariance).T @ _factor(b.covariance)
    wide = product.shape[0] <= product.shape[1]
    squares = np.linalg.eigvalsh(product @ product.T if wide else product.T @ product)
    root = np.sum(np.sqrt(np.maximum(squares, 0)))
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    distance = np.sum((a.mean - b.mean) ** 2) + traces - 2 * root
    return float(max(distance, 0.0))  # rounding may leave -1e-12


def _factor(covariance):
    """F [d, rank] with F F^T = covariance, float64; eigenvalues that are rounding are left out."""
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    is_kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    return vectors[:, is_kept] * np.sqrt(values[is_kept])
