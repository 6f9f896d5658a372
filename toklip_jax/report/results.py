"""The page's section of results: our tables, with baselines, and published figures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from toklip_jax.evaluation.published import SOURCES, published_like
from toklip_jax.evaluation.registry import EVALUATIONS
from toklip_jax.evaluation.tables import NOTHING, figure_label
from toklip_jax.report.cells import cell_error, cell_text, cell_value
from toklip_jax.report.charts import share_curves
from toklip_jax.report.files import Run
from toklip_jax.report.markup import tag
from toklip_jax.report.page import Section, table
from toklip_jax.report.seeds import seed_of, spread
from toklip_jax.report.wording import name_text

LOWER_IS_BETTER = ("rfid", "fid", "loss", "mse", "error")
NO_RANKING = ("num_", "perplexity", "code_usage")  # more of these is not better as such
MAX_COLUMNS = 6
LEAD = 2  # standard errors by which the best is ahead where it is in bold
TRAINED = ("toklip", "teacher", "vq")
SHARE = re.compile(r"first_(\d+)")  # a figure from the first ids alone


def results_section(run: Run, config: Any | None, seeds: Sequence[Run] = ()) -> Section:
    """Returns the tables of all evaluations, and published figures of models of the same size.

    Args:
        config: the config of the run's TokLIP, or None.
        seeds: runs of the same config with other seeds.
    """
    title = "Results"
    tables = [_evaluation(name, result, run, seeds) for name, result in run.evaluations.items()]
    published = published_like(config) if config else []
    if published:
        tables.append(_published(published))
    if not tables:
        return Section("results", title, "Left out: the run has not been evaluated yet.")
    lead = (
        "All figures are measured on data that no stage was trained on, those of baselines in the "
        "same way; ± is one standard error. The best of the trained models is in bold where it "
        f"leads the next by more than {LEAD} standard errors of their difference."
    )
    return Section("results", title, lead, tables)


def leader(figure: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the row that is ahead of all others by more than LEAD standard errors, or None.

    The errors of two rows are taken as independent: on the same images that is cautious.
    """
    if figure.startswith(NO_RANKING):
        return None
    measured = [row for row in rows if cell_value(row.get(figure)) is not None]
    sign = -1 if figure.endswith(LOWER_IS_BETTER) else 1
    measured.sort(key=lambda row: -sign * cell_value(row[figure]))
    if len(measured) < 2:
        return None
    first, *others = (row[figure] for row in measured)
    return measured[0] if all(_leads(first, other) for other in others) else None


def _leads(one, other):
    errors = cell_error(one), cell_error(other)
    if None in errors:
        return False  # nobody knows how far figures without an error vary
    return abs(cell_value(one) - cell_value(other)) > LEAD * math.hypot(*errors)


def _evaluation(name, result, run, seeds):
    kind = EVALUATIONS.get(result.get("kind", name))
    about = kind.about if kind else ""  # another package's may not be imported
    rows = result.get("rows", [])
    return [
        tag("h3", name_text(name)),
        tag("p", about, " ", _counts(result)),
        _rows_table(rows, run, f"Results of {name}"),
        _shares(rows),
        _over_seeds(name, run, seeds) if seeds else None,
    ]


def _rows_table(rows, run, caption):
    figures = list(dict.fromkeys(k for row in rows for k in row if k != "model"))
    trained = [row for row in rows if _is_trained(row, run)]
    best = {figure: leader(figure, trained) for figure in figures}
    body = [
        [str(row.get("model", "")), *(_data(row.get(f), best[f] is row) for f in figures)]
        for row in rows
    ]
    return _table(["model", *map(figure_label, figures)], body, caption)


def _shares(rows):
    """A chart of figures from the first ids alone, where an evaluation has such."""
    models = {}
    for row in rows:
        found = [(SHARE.fullmatch(name), cell) for name, cell in row.items()]
        points = [
            (float(share[1]), cell_value(cell), cell_error(cell) or 0.0)
            for share, cell in found
            if share and cell_value(cell) is not None
        ]
        if len(points) > 1:
            models[str(row.get("model", ""))] = sorted(points)
    return tag("div", share_curves(models), class_="wide") if models else None


def _over_seeds(name, run, seeds):
    runs = [run, *seeds]
    listed = ", ".join(str(seed_of(each)) for each in runs)
    text = (
        f"The mean of {len(runs)} runs with the seeds {listed}; here ± is the standard error over "
        f"the runs."
    )
    return [tag("p", text), _rows_table(spread(name, runs), run, f"{name} over {len(runs)} runs")]


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


def _data(cell, is_best):
    text = cell_text(cell)
    if text == NOTHING:
        return tag("span", NOTHING, class_="nothing")
    value, _, error = text.partition(" ± ")
    shown = tag("strong", value) if is_best else value
    return [shown, tag("small", f" ± {error}") if error else None]


def _is_trained(row: Mapping[str, Any], run: Run) -> bool:
    """Returns whether a row is of a model of this run and not a baseline, by the models' names."""
    name = re.split(r"[,(:]", str(row.get("model", "")).lower())[0].strip()
    return name in {*TRAINED, *map(str.lower, run.results.get("weights", {}))}
