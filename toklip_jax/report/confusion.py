"""The page's section of confused classes."""

from collections.abc import Mapping

import numpy as np

from toklip_jax.report.charts import confused_labels, confusion_matrix
from toklip_jax.report.files import Run, counts_of
from toklip_jax.report.markup import tag
from toklip_jax.report.page import Section, table


def confusion_section(run: Run) -> Section:
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
    right = np.trace(counts) / max(counts.sum(), 1)
    lead = (
        f"{_evaluated(run, name)} in {name.replace('_', ' ')}: each row is a true class and shows "
        f"how its images were classified, in per cent; right answers, {right:.0%} of all images, "
        f"are on the diagonal."
    )
    if len(kept) < len(labels):
        lead += f" Only the {len(kept)} of {len(labels):,} classes confused most often are shown."
    matrix = confusion_matrix(shares[np.ix_(kept, kept)], [labels[i] for i in kept])
    return Section("confusion", title, lead, [matrix, _confusions(counts, labels)])


def _confusion(found):
    """The counts of an evaluation's details and their labels; None where they don't fit."""
    if not isinstance(found, Mapping) or not isinstance(found.get("labels"), list):
        return None, ()
    counts, labels = counts_of(found.get("counts")), list(map(str, found["labels"]))
    fits = counts is not None and counts.shape == (len(labels), len(labels))
    return (counts, labels) if fits else (None, ())


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
    title = "Most frequent errors"
    content = table(["true class", "answered", "images"], rows, title)
    return [tag("h3", title), content] if rows else None
