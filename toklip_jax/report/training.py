"""The page's section of training: each stage's curves, those that matter most first."""

from collections.abc import Sequence
from typing import Any

from toklip_jax.evaluation.tables import figure_label
from toklip_jax.report.charts import Points, curve, model_curves
from toklip_jax.report.files import Run, number
from toklip_jax.report.markup import tag
from toklip_jax.report.page import Section
from toklip_jax.report.wording import duration_text, name_text

MAX_EVALUATED = 4  # figures of a stage's evaluations that are drawn
MAX_MODELS = 3  # lines of such a chart
MAX_CURVES = 8  # of a stage's other values
NOT_CURVES = ("step", "speed")
COUNTS = ("bad_samples", "is_skipped")  # drawn where they aren't zero
# Figures that tell most, and models that they are about, best first; others follow as logged.
FIGURES = ("image_to_text_r1", "text_to_image_r1", "top1", "group_top1", "psnr", "rfid", "fid")
MODELS = ("TokLIP", "teacher")
LATE = ("logit_scale", "grad_norm", "learning_rate", *COUNTS)  # what follows the losses


def training_section(run: Run) -> Section:
    """Returns every stage's curves, the last stage's first: what a run is for comes last."""
    title = "Training"
    if not run.metrics:
        return Section("training", title, "Left out: this run has no log of its training.")
    lead = (
        "What each stage logged, the last stage first: figures of evaluations during training, "
        "then losses (faint, with their running mean in front), then the optimizer's values. All "
        "that was logged is in each stage's metrics.jsonl and in TensorBoard's log."
    )
    body = []
    for stage, records in reversed(run.metrics.items()):
        seconds = seconds_trained(records)
        last = max(number(record["step"]) or 0 for record in records)
        steps = f"{last:,.0f} steps"
        length = f"{steps}, {duration_text(seconds)}" if seconds else steps
        charts = [*_evaluated(stage, records), *_logged(stage, records)]
        heading = tag("h3", name_text(stage), " ", tag("small", length))
        body += [heading, tag("div", charts, class_="charts")]
    return Section("training", title, lead, body)


def seconds_trained(records: Sequence[dict[str, Any]]) -> float:
    """Returns the seconds that a stage's logged steps took, interruptions not counted."""
    total, before = 0.0, 0.0
    for record in records:
        step = number(record["step"]) or before
        speed = record.get("speed")
        each = number(speed.get("seconds_per_step")) if isinstance(speed, dict) else None
        total, before = total + max(step - before, 0) * max(each or 0.0, 0), step
    return total


def _evaluated(stage, records):
    """Charts of the evaluations during training: one for each figure, a line for each model."""
    found: dict[tuple[str, str], dict[str, Points]] = {}
    for name, points in _series(records).items():
        if name.count("/") >= 2:
            (evaluation, rest), figure = name.split("/", 1), name.rsplit("/", 1)[1]
            model = rest.rsplit("/", 1)[0]
            found.setdefault((evaluation, figure), {})[model] = points
    chosen = sorted(found, key=lambda key: _rank(key[1], FIGURES))[:MAX_EVALUATED]
    charts = []
    for evaluation, figure in chosen:
        models = sorted(found[evaluation, figure].items(), key=lambda item: _rank(item[0], MODELS))
        models = dict(models[:MAX_MODELS])
        last = ", ".join(f"{model} {values[-1]:.4g}" for model, (_, values) in models.items())
        title = f"{name_text(evaluation)}: {figure_label(figure)}"
        alt = f"{title} while stage {stage} trained, last {last}"
        charts.append(model_curves(title, models, alt))
    return charts


def _logged(stage, records):
    """Charts of what was logged at every step, equal curves once: losses, then the optimizer's."""
    series = _series(records)
    names = [name for name in series if name.count("/") < 2]
    names.sort(key=lambda name: (name != "loss", name in LATE and LATE.index(name) + 1))
    drawn: dict[str, Points] = {}
    for name in names:
        is_needed = name not in COUNTS or any(series[name][1])
        if is_needed and series[name] not in drawn.values():
            drawn[name] = series[name]
    return [
        curve(
            name_text(figure_label(name.replace("/", ": "))),
            points,
            f"{name} of stage {stage} over its steps, last {points[1][-1]:.4g}",
            is_schedule=name == "learning_rate",
        )
        for name, points in list(drawn.items())[:MAX_CURVES]
    ]


def _series(records) -> dict[str, Points]:
    """Name -> (steps, values) of the numbers that were logged."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name in dict.fromkeys(k for record in records for k in record if k not in NOT_CURVES):
        found = [(number(r.get("step")), number(r.get(name))) for r in records]
        points = [(step, value) for step, value in found if None not in (step, value)]
        if points:
            steps, values = map(list, zip(*points, strict=True))
            series[name] = steps, values
    return series


def _rank(name, first):
    return first.index(name) if name in first else len(first)
