"""Result tables: ours, beside the baselines, and what was published."""

import math
import re
from collections.abc import Mapping
from typing import Any

from toklip_jax.evaluation.published import SOURCES, published_like
from toklip_jax.evaluation.tables import NOTHING, figure_label, format_cell
from toklip_jax.metrics import Estimate
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.report.files import Run
from toklip_jax.report.markup import tag
from toklip_jax.report.page import Section, table

KINDS = {
    "emoji": "Emoji in a drawing style that no stage saw: naming them, and finding them by name.",
    "zeroshot": "Classes named by text alone; no classifier was trained.",
    "retrieval": "Which text belongs to an image, and which image to a text.",
    "reconstruction": "What an image is worth once it is ids.",
    "meaning": "How much of what an image shows its ids and tokens tell a simple classifier.",
    "prefix": "What the first ids alone say: attention is causal, so an image can be cut short.",
}
LOWER_IS_BETTER = ("rfid", "fid", "loss", "mse", "error")
UNJUDGED = ("num_", "perplexity", "code_usage")  # more of these is not better as such
MAX_COLUMNS = 6
TRAINED = ("toklip", "teacher", "vq")


def results_section(run: Run, config: TokLIPConfig | None) -> Section:
    """Returns the tables of all evaluations, and the published figures of the same size."""
    title = "Results"
    tables = [_evaluation(name, result, run) for name, result in run.evaluations.items()]
    published = published_like(config) if config else []
    if published:
        tables.append(_published(published))
    if not tables:
        return Section("results", title, "Left out: the run has not been evaluated yet.")
    lead = (
        "What was measured on data that no stage was trained on, beside baselines measured in the "
        "same way; ± is one standard error, and the best of the trained models is in bold."
    )
    return Section("results", title, lead, tables)


def cell_text(cell: Any) -> str:
    """Returns a figure of results.json as people read it."""
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
    kind = result.get("kind", name)
    return [
        tag("h3", name[:1].upper() + name[1:].replace("_", " ")),
        tag("p", KINDS.get(kind, ""), " ", _counts(result)),
        _table(["model", *map(figure_label, figures)], body, f"Results of {name}"),
    ]


def _table(head, body, caption):
    """A table of models by figures; of figures by models where those are many."""
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
    return text + (f" Not judged: {', '.join(skipped)}." if skipped else "")


def _data(cell, best, is_trained):
    text = cell_text(cell)
    if text == NOTHING:
        return tag("span", NOTHING, class_="nothing")
    value, _, error = text.partition(" ± ")
    shown = tag("strong", value) if is_trained and best == _value(cell) is not None else value
    return [shown, tag("small", f" ± {error}") if error else None]


def _best(figure, rows):
    """The best value among at least two; None where none is better."""
    values = [value for row in rows if (value := _value(row.get(figure))) is not None]
    if len(values) < 2 or figure.startswith(UNJUDGED):
        return None
    return (min if figure.endswith(LOWER_IS_BETTER) else max)(values)


def _is_trained(row: Mapping[str, Any], run: Run) -> bool:
    """Says whether a row is of a model of this run, and no baseline: by the models' names."""
    name = re.split(r"[,(:]", str(row.get("model", "")).lower())[0].strip()
    return name in {*TRAINED, *map(str.lower, run.results.get("weights", {}))}


def _cell(cell):
    if isinstance(cell, Mapping):
        error = cell.get("error")
        return Estimate(_number(cell.get("value")), _number(error))
    return cell


def _number(value):
    return math.nan if value is None else float(value)


def _value(cell):
    cell = _cell(cell)
    value = cell.value if isinstance(cell, Estimate) else cell
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
