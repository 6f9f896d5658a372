"""The page's section of results: our tables, with baselines, and published figures."""

import math
import re
from collections.abc import Mapping
from typing import Any

from toklip_jax.evaluation.published import SOURCES, published_like
from toklip_jax.evaluation.registry import EVALUATIONS
from toklip_jax.evaluation.tables import NOTHING, figure_label, format_cell
from toklip_jax.metrics import Estimate
from toklip_jax.report.files import Run, number
from toklip_jax.report.markup import tag
from toklip_jax.report.page import Section, table

LOWER_IS_BETTER = ("rfid", "fid", "loss", "mse", "error")
NO_RANKING = ("num_", "perplexity", "code_usage")  # more of these is not better as such
MAX_COLUMNS = 6
TRAINED = ("toklip", "teacher", "vq")


def results_section(run: Run, config: Any | None) -> Section:
    """Returns the tables of all evaluations, and published figures of models of the same size.

    Args:
        config: the config of the run's TokLIP, or None.
    """
    title = "Results"
    tables = [_evaluation(name, result, run) for name, result in run.evaluations.items()]
    published = published_like(config) if config else []
    if published:
        tables.append(_published(published))
    if not tables:
        return Section("results", title, "Left out: the run has not been evaluated yet.")
    lead = (
        "All figures are measured on data that no stage was trained on, those of baselines in the "
        "same way; ± is one standard error, and the best of the trained models is in bold."
    )
    return Section("results", title, lead, tables)


def cell_text(cell: Any) -> str:
    """Returns a figure of results.json for people."""
    return format_cell(_cell(cell))


def _evaluation(name, result, run):
    rows = result.get("rows", [])
    figures = list(dict.fromkeys(k for row in rows for k in row if k != "model"))
    trained = [row for row in rows if _is_trained(row, run)]
    best = {figure: _best(figure, trained) for figure in figures}
    body = [
        [str(row.get("model", "")), *(_data(row.get(f), best[f], row in trained) for f in figures)]
        for row in rows
    ]
    kind = EVALUATIONS.get(result.get("kind", name))
    about = kind.about if kind else ""  # another package's may not be imported
    return [
        tag("h3", name[:1].upper() + name[1:].replace("_", " ")),
        tag("p", about, " ", _counts(result)),
        _table(["model", *map(figure_label, figures)], body, f"Results of {name}"),
    ]


def _table(head, body, caption):
    """A table with a row for each model; where there are many figures, with a column for each."""
    if len(head) > MAX_COLUMNS >= len(body):
        head, *body = zip(head, *body, strict=True)
        head = ["", *head[1:]]
    return table(head, body, caption)


def _published(rows):
    body = [
        [f"{row.model}, {row.image_size} px", *(f"{value:g}" for value in row[2:])] for row in rows
    ]
    head = ["published", "ImageNet top-1", "COCO image → text R@1", "COCO text → image R@1"]
    return [
        tag("h3", "Published figures of this size"),
        tag("p", f"In per cent, zero-shot. {SOURCES}"),
        table(head, body, "Published figures"),
    ]


def _counts(result):
    sets = [f"{count:,} of {name}" for name, count in (result.get("num_images") or {}).items()]
    skipped = [f"{n:,} {cause}" for cause, n in (result.get("skipped") or {}).items() if n]
    text = f"Images: {', '.join(sets)}." if sets else ""
    return text + (f" Not evaluated: {', '.join(skipped)}." if skipped else "")


def _data(cell, best, is_trained):
    text = cell_text(cell)
    if text == NOTHING:
        return tag("span", NOTHING, class_="nothing")
    value, _, error = text.partition(" ± ")
    shown = tag("strong", value) if is_trained and best == _value(cell) is not None else value
    return [shown, tag("small", f" ± {error}") if error else None]


def _best(figure, rows):
    """The best of at least two values; None where more is not better as such."""
    values = [value for row in rows if (value := _value(row.get(figure))) is not None]
    if len(values) < 2 or figure.startswith(NO_RANKING):
        return None
    return (min if figure.endswith(LOWER_IS_BETTER) else max)(values)


def _is_trained(row: Mapping[str, Any], run: Run) -> bool:
    """Returns whether a row is of a model of this run and not a baseline, by the models' names."""
    name = re.split(r"[,(:]", str(row.get("model", "")).lower())[0].strip()
    return name in {*TRAINED, *map(str.lower, run.results.get("weights", {}))}


def _cell(cell):
    if isinstance(cell, Mapping):
        value, error = (number(cell.get(name)) for name in ("value", "error"))
        return Estimate(*(math.nan if x is None else x for x in (value, error)))
    return cell if isinstance(cell, str) or number(cell) is not None else None


def _value(cell):
    cell = _cell(cell)
    value = number(cell.value if isinstance(cell, Estimate) else cell)
    return None if value is None or math.isnan(value) else value
