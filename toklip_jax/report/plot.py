"""Draws lines as SVG that stretches with the page, with labels as HTML that does not.

Labels keep their size on every screen, and all colours are the page's, light or dark.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from toklip_jax.report.markup import Markup, tag

NUM_TICKS = 4  # intervals of the vertical axis at most; the other one has a label fewer
NUM_LOOKS = 3  # looks of lines that the style sheet knows: .look-0 to .look-2
LOG_SPAN = 30  # values that span more are drawn on a logarithmic axis if asked to
SMALLEST = 1e-4  # step between ticks that is written with all its decimals
EDGE = 12  # per cent of the width in which a label doesn't stand centred below its place


class Line(NamedTuple):
    """A line of a plot.

    Attributes:
        label: its name in the legend, or "".
        x, y: its points, finite.
        errors: half the length of the bar at each point, or nothing.
        is_marked: whether each point is marked.
        is_faint: whether it stands behind the others, without a place in the legend.
    """

    label: str
    x: Sequence[float | int]
    y: Sequence[float | int]
    errors: Sequence[float | int] = ()
    is_marked: bool = False
    is_faint: bool = False


class Axis(NamedTuple):
    """The range of an axis and the values that are labelled on it."""

    low: float | int
    high: float | int
    ticks: list[float] | list[int]
    is_log: bool = False

    def place(self, value: float | int) -> float:
        """Returns where a value is, in per cent of the axis."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(100 * (value - low) / (high - low), 2)


def plot(
    lines: Sequence[Line],
    *,
    title: str,
    alt: str,
    x_label: str,
    x: Axis,
    unit: str = "",
    is_log: bool | None = None,
) -> Markup:
    """Returns a `figure` element of lines over a common axis.

    Args:
        title: its caption, or "".
        alt: what it shows, for those who don't see it.
        x_label: below the horizontal axis.
        x: the horizontal axis.
        unit: follows its labels.
        is_log: whether the vertical axis is logarithmic; None if positive values span much.
    """
    ends = [end for line in lines for end in _ends(line)]
    if is_log is None:
        is_log = min(ends) > 0 and max(ends) > LOG_SPAN * min(ends)
    y = log_axis(ends) if is_log else axis(ends)
    chart = tag(
        "div",
        _labels(y.ticks, y, "y"),
        tag("div", _drawing(lines, x, y), class_="area"),
        _labels(x.ticks, x, "x", unit),
        tag("div", x_label, class_="x-label"),
        class_="chart",
        role="img",
        aria_label=alt,
    )
    named = [line.label for line in lines if line.label and not line.is_faint]
    legend = [
        tag("span", tag("i", class_=f"look-{i % NUM_LOOKS}"), label)
        for i, label in enumerate(named)
    ]
    caption = [tag("b", title) if title else None, tag("div", legend, class_="legend")]
    return tag("figure", tag("figcaption", caption if named else caption[0]), chart)


def axis(values: Sequence[float | int], count: int = NUM_TICKS, is_tight: bool = False) -> Axis:
    """Returns a linear axis of round ticks, which ends at ticks, or at the values if tight."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) <= count)
    if not is_tight:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, [number * step for number in range(first, last + 1)])


def log_axis(values: Sequence[float | int]) -> Axis:
    """Returns a logarithmic axis from the power of ten below the values to the one above."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    stride = -(-(high - low) // NUM_TICKS)
    ticks = [10.0**power for power in range(low, high + 1, stride)]
    return Axis(10.0**low, 10.0**high, ticks, is_log=True)


def count_axis(high: float | int) -> Axis:
    """Returns the horizontal axis of counts from 0 to `high`."""
    return axis([0, high or 1], NUM_TICKS - 1, is_tight=True)


def tick_text(value: float | int, step: float | int = 0) -> str:
    """Returns the label of a tick: "0.40", "1,500", "20k".

    Args:
        step: that between the ticks of a linear axis, which says how many decimals there are.
    """
    if abs(value) >= 10_000:
        unit, size = next(u for u in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if abs(value) >= u[1])
        return f"{value / size:.4g}{unit}" if abs(value) < 1e13 else f"{value:.1g}"
    if step >= SMALLEST:
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    if abs(value) < step / 1000:
        return "0"
    return f"{value:,.4g}".replace("e-0", "e-")


def _ends(line):
    errors = line.errors or [0.0] * len(line.y)
    return [end for y, e in zip(line.y, errors, strict=True) for end in (y - e, y + e)]


def _labels(ticks, on, name, unit=""):
    step = 0 if on.is_log or len(ticks) < 2 else ticks[1] - ticks[0]
    texts = [tick_text(value, step) + unit for value in ticks]
    # The longest one, unseen, gives the column its width.
    labels = [tag("span", max(texts, key=len), class_="widest")] if name == "y" else []
    for value, text in zip(ticks, texts, strict=True):
        place = on.place(value)
        side = "start" if place < EDGE else "end" if place > 100 - EDGE else None
        start = f"{'left' if name == 'x' else 'bottom'}:{place:g}%"
        labels.append(tag("span", text, style=start, class_=side if name == "x" else None))
    return tag("div", labels, class_=name)


def _drawing(lines, x, y):
    """The lines in a square of 100 units, which the page stretches."""
    grid = "".join(f"M0 {100 - y.place(tick):g}h100" for tick in y.ticks)
    paths = [tag("path", d=grid, class_="grid")]
    look = 0
    for line in lines:
        points = [(x.place(a), 100 - y.place(b)) for a, b in zip(line.x, line.y, strict=True)]
        class_ = f"line look-{look % NUM_LOOKS}{' faint' if line.is_faint else ''}"
        d = "M" + "L".join(f"{a:g} {b:g}" for a, b in points)
        paths.append(tag("path", d=d, class_=class_))
        if line.errors:
            bars = zip(points, line.y, line.errors, strict=True)
            d = "".join(
                f"M{a:g} {100 - y.place(b - e):g}V{100 - y.place(b + e):g}" for (a, _), b, e in bars
            )
            paths.append(tag("path", d=d, class_=class_ + " bars"))
        if line.is_marked:
            d = "".join(f"M{a:g} {b:g}h0" for a, b in points)
            paths.append(tag("path", d=d, class_=class_ + " marks"))
        look += not line.is_faint
    return tag("svg", paths, viewBox="0 0 100 100", preserveAspectRatio="none")


def thinned(count: int, most: int) -> np.ndarray:
    """Returns at most `most` places, spread evenly over `count`, the first and the last too."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
