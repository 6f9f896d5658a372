"""Mean of per-example values, with its standard error."""

import math

import flax.struct
import numpy as np
from jaxtyping import Bool, Float, Int

from toklip_jax.metrics.state import AnyArray, Estimate, State


@flax.struct.dataclass
class Mean(State):
    """Weighted mean: sums of w x, w x^2 and w.

    A weight says how often an example counts: 0 leaves it out, as a False in a mask does.
    """

    total: float
    squares: float
    weight: float

    @classmethod
    def empty(cls) -> "Mean":
        return cls(total=0.0, squares=0.0, weight=0.0)

    @classmethod
    def from_values(
        cls,
        values: Float[AnyArray, " b"],
        weights: Bool[AnyArray, " b"] | Float[AnyArray, " b"] | Int[AnyArray, " b"] | None = None,
    ) -> "Mean":
        """Counts each of `values` `weights` times (once where None); weight 0 ignores even NaN."""
        values = np.asarray(values, np.float64)
        weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
        values = np.where(weights > 0, values, 0.0)
        return cls(
            total=float(np.sum(weights * values)),
            squares=float(np.sum(weights * values**2)),
            weight=float(np.sum(weights)),
        )

    def compute(self) -> Estimate:
        """Returns the mean and s / sqrt(n), s^2 the unbiased variance; NaN where undefined."""
        if self.weight == 0:
            return Estimate(math.nan)
        mean = self.total / self.weight
        if self.weight <= 1 or not math.isfinite(mean):
            return Estimate(mean)
        spread = max(self.squares - self.weight * mean**2, 0.0)  # rounding may leave -1e-16
        return Estimate(mean, math.sqrt(spread / (self.weight - 1) / self.weight))
