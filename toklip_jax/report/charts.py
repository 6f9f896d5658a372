"""Charts as SVG that takes the page's colours, light or dark. Matplotlib is imported when used."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from toklip_jax.evaluation.figures import smooth
from toklip_jax.report.markup import plain

# What the figure is drawn in, and the page's variable that takes its place.
INK, MUTED, RULE, ACCENT = "#1c1d20", "#5b6067", "#dcdedb", "#0b62a8"
THEME = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent"}
WIDTH, HEIGHT = 3.2, 2.0  # inches
MAX_POINTS = 400  # of a line
LOG_SPAN = 30  # a curve that falls by more is drawn on a logarithmic axis
MAX_LABELS = 24  # of a confusion matrix


def curve(name: str, steps: Sequence[float | int], values: Sequence[float | int]) -> Any:
    """Returns a figure of one curve: raw values faint, smoothed in front."""
    figure, axes = _figure(WIDTH, HEIGHT)
    steps, values = np.asarray(steps), np.asarray(values, np.float64)
    if len(values) <= 12:  # an evaluation now and then
        axes.plot(steps, values, color=ACCENT, linewidth=1.6, marker="o", markersize=3)
    elif name == "learning_rate":
        axes.plot(steps, values, color=ACCENT, linewidth=1.6)
    else:
        kept = np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).astype(int)
        axes.plot(steps[kept], values[kept], color=ACCENT, alpha=0.3, linewidth=0.8)
        axes.plot(steps[kept], smooth(values)[kept], color=ACCENT, linewidth=1.6)
    if values.min() > 0 and values.max() > LOG_SPAN * values.min() and name != "learning_rate":
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=8, color=MUTED)
    return figure


def code_histogram(counts: Int[np.ndarray, " z"]) -> Any:
    """Returns a figure of how often each code occurs, most frequent first."""
    figure, axes = _figure(1.5 * WIDTH, HEIGHT)
    ordered = np.sort(counts)[::-1]
    used = int(np.count_nonzero(ordered))
    rank = np.unique(np.linspace(0, used - 1, min(used, MAX_POINTS)).astype(int))
    axes.fill_between(rank + 1, ordered[rank], 0.8, color=ACCENT, alpha=0.25, linewidth=0)
    axes.plot(rank + 1, ordered[rank], color=ACCENT, linewidth=1.6)
    axes.set(yscale="log", xlim=(1, len(counts)), ylim=(0.8, None))
    if used < len(counts):
        axes.axvline(used, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        side, gap = ("right", -6) if used > len(counts) / 2 else ("left", 6)
        axes.annotate(
            *(f"{used:,} codes in use", (used, ordered[0])),
            **{"xytext": (gap, -4), "textcoords": "offset points"},
            **{"ha": side, "va": "top", "fontsize": 8, "color": MUTED},
        )
    axes.set_xlabel("codes, most frequent first", fontsize=8, color=MUTED)
    axes.set_ylabel("occurrences", fontsize=8, color=MUTED)
    return figure


def confusion_matrix(shares: Float[np.ndarray, "c c"], labels: Sequence[str]) -> Any:
    """Returns a figure of a matrix whose rows sum to 1: the truth down, the answer across."""
    from matplotlib.patches import Rectangle

    size = len(labels)
    cell = 0.42 if size <= 12 else 0.3
    figure, axes = _figure(cell * size + 2.2, cell * size + 1.7)
    for row, column in np.argwhere(shares > 0.004):
        share = float(shares[row, column])
        place = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(place, 1, 1, facecolor=ACCENT, alpha=0.6 * share, linewidth=0))
        if size <= 12:
            style = {"ha": "center", "va": "center", "fontsize": 7, "color": INK}
            axes.text(column, row, f"{100 * share:.0f}", **style)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    short = [label if len(label) <= 22 else label[:21] + "…" for label in map(plain, labels)]
    axes.set_xticks(range(size), short, rotation=90, parse_math=False)
    axes.set_yticks(range(size), short, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=7)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def as_svg(figure: Any, name: str) -> str:
    """Returns `figure` as an SVG element without a size, in the page's colours and font.

    Args:
        name: distinguishes its ids from those of the page's other figures; letters, digits, "_",
            "." and "-".
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<[^<>]*>", lambda found: _as_on_the_page(found[0], name), text)
    return re.sub(r"\n\s*", "\n", text).strip()


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


def _as_on_the_page(tag, name):
    """One tag of an SVG, its ids distinguished, in the page's font and colours."""
    tag = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"'DejaVu Sans'[^;\"]*", "ui-sans-serif, system-ui, sans-serif", tag)
    for color, variable in THEME.items():
        tag = tag.replace(color, f"var({variable})")
    return tag


def _figure(width, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, colors=MUTED, which="both", length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    return figure, axes
