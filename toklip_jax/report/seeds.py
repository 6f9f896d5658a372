"""Several runs of one config with different seeds: how far their figures spread."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.report.cells import cell_value
from toklip_jax.report.files import RESULTS, Run, read_run
from toklip_jax.training.config_change import differences

FREE = ("seed", "evaluate", "report", "wandb")  # fields in which the runs may differ
MAX_NAMED = 3  # fields that an error names


def read_seeds(run: Run, workdirs: Sequence[str | pathlib.Path]) -> list[Run]:
    """Reads the runs of other seeds beside `run`.

    Raises:
        ValueError: one that has no results, another config, or a seed that another one has.
    """
    others = [read_run(workdir) for workdir in workdirs]
    seen = {seed_of(run): run.workdir}
    for other in others:
        if not other.evaluations:
            raise UserError(
                f"expected runs with a {RESULTS} as seeds, got {other.workdir} without one: "
                f"evaluate it first, with --mode=eval"
            )
        if differ := _differences(run, other):
            raise UserError(
                f"expected runs of one config as seeds, got {other.workdir}, whose config differs "
                f"({'; '.join(differ[:MAX_NAMED])}): leave it out"
            )
        seed = seed_of(other)
        if seed in seen:
            raise UserError(
                f"expected runs of different seeds, got {seen[seed]} and {other.workdir}, both of "
                f"seed {seed}: leave one out"
            )
        seen[seed] = other.workdir
    return others


def seed_of(run: Run) -> Any:
    """Returns the seed in a run's config; 0 where it names none, as for the run itself."""
    return run.config.get("seed", 0)


def spread(name: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the rows of an evaluation as means over runs, with their standard errors.

    A figure stands in a row if all runs have it; where all have the same, without an error.
    """
    tables = [
        {str(row.get("model", "")): row for row in run.evaluations.get(name, {}).get("rows", ())}
        for run in runs
    ]
    return [
        {"model": model} | {figure: _mean([table.get(model, {}).get(figure) for table in tables])
                            for figure in row if figure != "model"}
        for model, row in tables[0].items()
    ]  # fmt: skip


def _mean(cells) -> Mapping[str, float | None] | None:
    values = [cell_value(cell) for cell in cells]
    if any(value is None for value in values):
        return None
    is_same = len(set(values)) == 1
    error = None if is_same else float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"value": float(np.mean(values)), "error": error}


def _differences(run, other):
    return differences(
        *({k: v for k, v in each.config.items() if k not in FREE} for each in (run, other))
    )
