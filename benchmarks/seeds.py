"""Figures of several runs of one thing, by seed: means and standard errors as a table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def by_variant(found: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the runs of each variant, from names "VARIANT_SEED"."""
    runs: dict[str, list[Any]] = {}
    for name, one in found.items():
        runs.setdefault(name.rpartition("_")[0], []).append(one)
    return runs


def mean_table(
    title: str,
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    columns: Mapping[str, str],
) -> str:
    """Returns a table in Markdown: for each row the number of runs, means ± standard errors.

    Args:
        title: of the rows.
        runs: the figures of each run, by row.
        columns: column to the name of its figure; empty where a run doesn't have it.
    """
    lines = [f"| {title} | runs | " + " | ".join(columns) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(columns))
    for row, found in runs.items():
        cells = [cell([run.get(figure, math.nan) for run in found]) for figure in columns.values()]
        lines.append(f"| {row} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: Sequence[float]) -> str:
    """Returns "mean ± standard error" of some runs; "" where one has no value."""
    if not values or any(map(math.isnan, values)):
        return ""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"
