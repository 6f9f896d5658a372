"""Results of evaluations: kept as plain json, and flattened for the log of a training run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from toklip_jax.metrics import Estimate


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one evaluation.

    Attributes:
        kind: the evaluation's kind, as registered.
        rows: the rows of its table, see `base.Scores`.
        details: see there.
        num_images: set of images -> how many were evaluated.
        skipped: cause -> images that could not be read, or that a data set left out when it was
            opened.
    """

    kind: str
    rows: list[dict[str, Any]]
    details: dict[str, Any]
    num_images: dict[str, int]
    skipped: dict[str, int]

    def to_plain(self) -> dict[str, Any]:
        """Returns what json can hold: estimates as {"value", "error"}, null for NaN."""
        rows = [{name: _plain(cell) for name, cell in row.items()} for row in self.rows]
        return dataclasses.asdict(self) | {"rows": rows}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "Result":
        """Undoes `to_plain`."""
        rows = [{name: _cell(cell) for name, cell in row.items()} for row in data["rows"]]
        return cls(**{**data, "rows": rows})


def flat_figures(results: Mapping[str, Result]) -> dict[str, float]:
    """Returns the figures of all tables as "evaluation/model/figure", as training logs them."""
    figures = {}
    for name, result in results.items():
        for row in result.rows:
            cells = {figure: cell for figure, cell in row.items() if figure != "model"}
            for figure, cell in cells.items():
                value = cell.value if isinstance(cell, Estimate) else cell
                if isinstance(value, int | float):
                    figures[f"{name}/{row['model']}/{figure}"] = float(value)
    return figures


def _plain(cell):
    """An estimate as a dict; what is not finite is null, as json knows no NaN."""
    if isinstance(cell, Estimate):
        return {name: _plain(number) for name, number in cell._asdict().items()}
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _cell(cell):
    if not isinstance(cell, dict):
        return cell
    return Estimate(*(math.nan if cell[n] is None else cell[n] for n in ("value", "error")))
