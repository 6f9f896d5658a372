"""The page's sections that need no images: training, confusion, how it was measured."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toklip_jax.evaluation.tables import figure_label
from toklip_jax.report.charts import confused_labels, confusion_matrix, curve
from toklip_jax.report.files import Run, counts_of, number
from toklip_jax.report.markup import tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section, scroll_box, table

MAX_CURVES = 9  # of a stage
NOT_CURVES = ("step", "speed")


def training_section(run: Run, output: Output) -> Section:
    """Returns every stage's curves."""
    title = "Training"
    if not run.metrics:
        return Section("training", title, "Left out: this run has no log of its training.")
    lead = "The values that each stage logged, faint, and their running mean."
    body = []
    for stage, records in run.metrics.items():
        series = _series(records)
        charts = [
            output.chart(
                curve(name, *points),
                f"training-{stage}-{name.replace('/', '-')}",
                f"{name} of stage {stage} over its steps, last {points[1][-1]:.4g}",
                tag("b", figure_label(name.replace("/", ": "))),
            )
            for name, points in series.items()
        ]
        body += [tag("h3", stage), tag("div", charts, class_="charts")]
    return Section("training", title, lead, body)


def confusion_section(run: Run, output: Output) -> Section:
    """Returns which classes are taken for which."""
    title, found = "Confused classes", run.details("confusion")
    if found is None:
        lead = "Left out: no evaluation of this run counted which classes are confused."
        return Section("confusion", title, lead)
    name, confusion = found
    counts, labels = _confusion(confusion)
    if counts is None:
        lead = f"Left out: what {name} counted is damaged; evaluate the run again."
        return Section("confusion", title, lead)
    kept = confused_labels(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lead = (
        f"{_evaluated(run, name)} in {name.replace('_', ' ')}: each row is a true class and shows "
        f"how its images were classified, in per cent; right answers are on the diagonal."
    )
    if len(kept) < len(labels):
        lead += f" Only the {len(kept)} of {len(labels):,} classes confused most often are shown."
    figure = confusion_matrix(shares[np.ix_(kept, kept)], [labels[i] for i in kept])
    right = np.trace(counts) / max(counts.sum(), 1)
    alt = f"Confusion matrix of {len(kept)} classes; {right:.0%} of the images are right"
    chart = scroll_box(output.chart(figure, "confusion", alt), "Confusion matrix")
    return Section("confusion", title, lead, [chart, _confusions(counts, labels)])


def method_section(
    run: Run, source: Mapping[str, Any] | None, phrases: Sequence[str], notes: Sequence[str] = ()
) -> Section:
    """Returns how to make this page again.

    Args:
        source: the source of the page's images, or None.
        phrases: the phrases asked for on the command line.
        notes: a line on each thing that was left out, with the reason.
    """
    workdir = shlex.quote(str(run.workdir))
    options = "".join(f" --phrase={shlex.quote(phrase)}" for phrase in phrases)
    commands = [
        f"python -m toklip_jax.main --config=CONFIG.py --workdir={workdir}    # the config below",
        f"python -m toklip_jax.main --config=CONFIG.py --workdir={workdir} --mode=eval",
        f"python -m toklip_jax.report {workdir}{options}",
    ]
    config = json.dumps(run.config, indent=2, ensure_ascii=False)
    data = json.dumps(source, ensure_ascii=False) if source else "none"
    body = [
        [tag("h3", "Left out"), [tag("p", note) for note in notes]] if notes else None,
        tag("h3", "Commands"),
        scroll_box(tag("pre", "\n".join(commands)), "Commands"),
        tag("h3", "Images of this page"),
        scroll_box(tag("pre", data), "Source of the images"),
        tag("h3", "Config"),
        tag("details", tag("summary", "All fields"), scroll_box(tag("pre", config), "Config")),
    ]
    return Section("method", "How it was measured", "How to measure it again.", body)


def _confusion(found):
    """The counts of an evaluation's details and their labels; None where they don't fit."""
    if not isinstance(found, Mapping) or not isinstance(found.get("labels"), list):
        return None, ()
    counts, labels = counts_of(found.get("counts")), list(map(str, found["labels"]))
    fits = counts is not None and counts.shape == (len(labels), len(labels))
    return (counts, labels) if fits else (None, ())


def _series(records):
    """Name -> (steps, values) of the values that were logged, equal curves once."""
    names = list(dict.fromkeys(k for record in records for k in record if k not in NOT_CURVES))
    names.sort(key=lambda name: (name != "loss", "learning_rate" in name, "/" in name))
    series: dict[str, tuple[list, list]] = {}
    for name in names:
        found = [(number(r.get("step")), number(r.get(name))) for r in records]
        points = [(step, value) for step, value in found if None not in (step, value)]
        if not points or (name == "is_skipped" and not any(value for _, value in points)):
            continue
        steps, values = map(list, zip(*points, strict=True))
        if (steps, values) not in series.values():
            series[name] = steps, values
    return dict(list(series.items())[:MAX_CURVES])


def _evaluated(run, name):
    """The model whose answers were counted: TokLIP, or the teacher where there is no TokLIP."""
    models = [row.get("model") for row in run.evaluations[name].get("rows", ())]
    return "TokLIP" if "TokLIP" in models else "The teacher"


def _confusions(counts, labels):
    """The most frequent errors, also for readers who can't see the chart."""
    errors = counts - np.diag(np.diag(counts))
    order = np.argsort(-errors, axis=None, kind="stable")[:5]
    pairs = [np.unravel_index(place, errors.shape) for place in order]
    rows = [
        [labels[true], labels[answer], f"{errors[true, answer]:,}"]
        for true, answer in pairs
        if errors[true, answer]
    ]
    return (
        table(["true class", "answered", "images"], rows, "Most frequent errors") if rows else None
    )
