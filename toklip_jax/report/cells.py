"""Cells of results.json, whose files may come from elsewhere."""

import math
from collections.abc import Mapping
from typing import Any

from toklip_jax.evaluation.tables import Cell, format_cell
from toklip_jax.metrics import Estimate
from toklip_jax.report.files import number


def read_cell(cell: Any) -> Cell:
    """Returns a cell as an estimate, a number or text; None for anything else."""
    if isinstance(cell, Mapping):
        value, error = (number(cell.get(name)) for name in ("value", "error"))
        return Estimate(*(math.nan if x is None else x for x in (value, error)))
    return cell if isinstance(cell, str) or number(cell) is not None else None


def cell_text(cell: Any) -> str:
    """Returns a cell for people."""
    return format_cell(read_cell(cell))


def cell_value(cell: Any) -> float | None:
    """Returns the number in a cell, or None."""
    return _finite(cell, "value")


def cell_error(cell: Any) -> float | None:
    """Returns the standard error in a cell, or None."""
    return _finite(cell, "error")


def _finite(cell, part):
    cell = read_cell(cell)
    if isinstance(cell, Estimate):
        value = getattr(cell, part)
        return None if math.isnan(value) else value
    return number(cell) if part == "value" else None
