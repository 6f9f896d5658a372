"""Rows of the tables of benchmarks."""

from collections.abc import Sequence

import numpy as np

from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics import Mean


def share_row(
    name: str, right: Sequence[bool | float], figure: str = "accuracy"
) -> dict[str, Cell]:
    """Returns the row of a mean with its standard error.

    Args:
        name: the part of the benchmark.
        right: the score of each question, in [0, 1].
        figure: the name of the mean.
    """
    mean = Mean.from_values(np.asarray(right, np.float64)).compute()
    return {"set": name, figure: mean, "questions": len(right)}
