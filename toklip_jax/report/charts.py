"""The page's charts: training curves, accuracy from the first ids, use of codes, confusion."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from toklip_jax.evaluation.figures import smooth
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.page import scroll_box
from toklip_jax.report.plot import Axis, Line, count_axis, plot, thinned

MAX_POINTS = 200  # of a line
FEW = 12  # values up to which each is marked: an evaluation now and then
MAX_LABELS = 24  # of a confusion matrix
SHADE = 45  # per cent of the accent colour behind 100 % in a confusion matrix

Points = tuple[Sequence[float | int], Sequence[float | int]]  # steps and values


def curve(title: str, points: Points, alt: str, *, is_schedule: bool = False) -> Markup:
    """Returns a chart of one logged value: raw values faint, their running mean in front.

    Args:
        is_schedule: whether the values are a schedule's, which is drawn as it is.
    """
    steps, values = np.asarray(points[0]), np.asarray(points[1], np.float64)
    kept = thinned(len(values), MAX_POINTS)
    raw, mean = (Line("", steps[kept].tolist(), y[kept].tolist()) for y in (values, smooth(values)))
    if is_schedule or len(values) <= FEW:
        lines = [raw._replace(is_marked=len(values) <= FEW)]
    else:
        lines = [raw._replace(is_faint=True), mean]
    is_log = False if is_schedule else None
    return plot(lines, title=title, alt=alt, x_label="step", x=_steps(lines), is_log=is_log)


def model_curves(title: str, models: Mapping[str, Points], alt: str) -> Markup:
    """Returns a chart of a figure that was evaluated during training, a line for each model."""
    lines = [
        Line(name, steps, values, is_marked=len(values) <= FEW)
        for name, (steps, values) in models.items()
    ]
    return plot(lines, title=title, alt=alt, x_label="step", x=_steps(lines))


def share_curves(models: Mapping[str, Sequence[tuple[float, float, float]]]) -> Markup:
    """Returns a chart of figures from the first ids alone.

    Args:
        models: name -> (per cent of the ids, figure, its standard error or 0) of each point.
    """
    lines = []
    for name, points in models.items():
        x, y, errors = map(list, zip(*points, strict=True))
        lines.append(Line(name, x, y, errors if any(errors) else (), is_marked=True))
    best = max(lines, key=lambda line: line.y[-1])
    alt = (
        f"{best.label}: {best.y[0]:.3f} from the first {best.x[0]:g} % of an image's ids, "
        f"{best.y[-1]:.3f} from the first {best.x[-1]:g} %"
    )
    x_label = "share of an image's ids that are seen, the first ones first"
    shares = sorted({share for line in lines for share in line.x})
    x = Axis(shares[0], shares[-1], shares)
    return plot(lines, title="Accuracy", alt=alt, x_label=x_label, x=x, unit=" %")


def code_histogram(counts: Int[np.ndarray, " z"], title: str = "") -> Markup:
    """Returns a chart of how often each code occurs, most frequent first."""
    ordered = np.sort(counts)[::-1]
    used = int(np.count_nonzero(ordered))
    rank = np.unique(thinned(used, MAX_POINTS))
    alt = f"Occurrences of each code on a logarithmic axis; {used} of {len(counts)} are used"
    line = Line("", (rank + 1).tolist(), ordered[rank].tolist(), is_marked=used == 1)
    x_label = "codes in use, most frequent first"
    x, title = count_axis(used), title or "Occurrences"
    return plot([line], title=title, alt=alt, x_label=x_label, x=x, is_log=True)


def confusion_matrix(shares: Float[np.ndarray, "c c"], labels: Sequence[str]) -> Markup:
    """Returns a table of a matrix whose rows sum to 1: the truth down, the answer across."""
    top = [tag("th", tag("span", label), scope="col") for label in labels]
    rows = [
        tag("tr", tag("th", label, scope="row"), [_share(share) for share in row])
        for label, row in zip(labels, shares.tolist(), strict=True)
    ]
    title = "Confusion matrix, in per cent"
    head = tag("thead", tag("tr", tag("td"), top))
    content = tag("table", tag("caption", title), head, tag("tbody", rows), class_="matrix")
    return scroll_box(content, title)


def confused_labels(
    counts: Int[np.ndarray, "c c"], limit: int = MAX_LABELS
) -> Int[np.ndarray, " k"]:
    """Returns the classes that are most often confused, two by two, at most `limit`, in order."""
    if len(counts) <= limit:
        return np.arange(len(counts))
    errors = counts - np.diag(np.diag(counts))
    pairs = np.argsort(-errors, axis=None, kind="stable")[: limit * limit]
    places = np.stack(np.unravel_index(pairs, errors.shape), axis=1).ravel()
    return np.sort(np.array(list(dict.fromkeys(places.tolist()))[:limit]))


def _steps(lines):
    return count_axis(max(max(line.x) for line in lines))


def _share(share):
    text = f"{100 * share:.0f}"
    if text == "0":
        return tag("td")
    color = f"color-mix(in srgb, var(--accent) {SHADE * share:.0f}%, transparent)"
    return tag("td", text, style=f"background:{color}")
