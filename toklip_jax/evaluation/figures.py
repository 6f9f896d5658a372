"""Pictures of results. Matplotlib is imported where it is used, and never opens a window."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from toklip_jax.metrics import to_unit_range

RIGHT, WRONG, INK, FAINT = "#1a7f37", "#57606a", "#1f2328", "#d0d7de"
LINES = "#0969da"
DPI = 150
NAMES_WIDTH = 4.2  # inches of a picture and its names
SMOOTHING = 0.02  # share of a curve's points over which it is smoothed
Image = Float[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w 3"]
Images = Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"]
Path = str | pathlib.Path


class ImageQuery(NamedTuple):
    """A picture, the names it was given, best first, and which of them is right."""

    image: Image
    names: Sequence[str]
    is_right: Sequence[bool]


class TextQuery(NamedTuple):
    """A text, the pictures it found, best first, and which of them are right."""

    text: str
    images: Images
    is_right: Sequence[bool]


def reconstruction_grid(
    originals: Images,
    reconstructions: Images,
    path: Path,
    *,
    notes: Sequence[str] | None = None,
    columns: int = 8,
    title: str = "Original above, reconstruction below",
    attribution: str = "",
) -> None:
    """Writes a grid of pairs, the original above its reconstruction.

    Args:
        originals: uint8, or float in [-1, 1].
        reconstructions: as many.
        path: the PNG to write.
        notes: a short line under each pair ("24.1 dB").
        columns: pairs a row.
        title: over the grid.
        attribution: licence line under it.
    """
    pairs = math.ceil(len(originals) / columns)
    height = 2 + (0.25 if notes else 0.08)
    figure = _figure(1.15 * columns, 1.15 * height * pairs + 0.75)
    grid = figure.add_gridspec(pairs, columns, wspace=0.06, hspace=0.0, **_margins(figure))
    for i, (original, restored) in enumerate(zip(originals, reconstructions, strict=True)):
        cell = grid[divmod(i, columns)].subgridspec(
            3, 1, height_ratios=[1, 1, height - 2], hspace=0.04
        )
        _show(figure.add_subplot(cell[0]), original)
        bottom = figure.add_subplot(cell[1])
        _show(bottom, restored)
        if notes:
            bottom.set_xlabel(notes[i], fontsize=7, color=WRONG, labelpad=2)
    _finish(figure, path, title, attribution)


def retrieval_examples(
    image_queries: Sequence[ImageQuery],
    text_queries: Sequence[TextQuery],
    path: Path,
    *,
    title: str = "Retrieval: image to text, and text to image",
    attribution: str = "",
) -> None:
    """Writes pictures beside the names they were given, and texts beside the pictures they found.

    Right answers are green and ticked.
    """
    rows = max(len(image_queries), len(text_queries))
    depth = max((len(query.images) for query in text_queries), default=1)
    figure = _figure(NAMES_WIDTH + 1.75 + depth, 1.12 * rows + 0.9)
    left, right = figure.add_gridspec(
        1, 2, width_ratios=[NAMES_WIDTH, 1.75 + depth], wspace=0.02, **_margins(figure)
    )
    named = left.subgridspec(rows, 2, width_ratios=[1, 3.4], wspace=0.06, hspace=0.12)
    for row, query in enumerate(image_queries):
        _show(figure.add_subplot(named[row, 0]), query.image)
        _list_names(figure.add_subplot(named[row, 1]), query)
    found = right.subgridspec(
        rows, depth + 1, width_ratios=[1.75] + [1] * depth, wspace=0.06, hspace=0.12
    )
    for row, query in enumerate(text_queries):
        _write(figure.add_subplot(found[row, 0]), f"“{_shorten(query.text, 40)}”")
        for column, (image, is_right) in enumerate(
            zip(query.images, query.is_right, strict=True), start=1
        ):
            axes = figure.add_subplot(found[row, column])
            _show(axes, image, frame=RIGHT if is_right else None)
    _finish(figure, path, title, attribution)


def loss_curves(
    series: Mapping[str, tuple[Any, Any]],
    path: Path,
    *,
    columns: int = 3,
    title: str = "Training",
) -> None:
    """Writes one panel a curve, since losses differ in scale: raw values faint, smoothed in front.

    Args:
        series: panel's title to (steps, values), two arrays or sequences of numbers.
        path: the PNG to write.
        columns: panels a row.
        title: over the panels.
    """
    columns = max(1, min(columns, len(series)))
    rows = max(1, math.ceil(len(series) / columns))
    figure = _figure(3.4 * columns, 2.3 * rows + 0.6, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (steps, values)) in zip(panels, series.items(), strict=False):
        values = np.asarray(values, np.float64)
        axes.plot(steps, values, color=LINES, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=LINES, linewidth=1.6)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("step", fontsize=8, color=WRONG)
        axes.tick_params(labelsize=7, colors=WRONG)
        axes.grid(color=FAINT, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
    for axes in panels[len(series) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    _save(figure, path)


def smooth(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns the centred moving average, whose window shrinks at both ends."""
    half = int(len(values) * SMOOTHING / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    start, stop = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def _list_names(axes, query):
    axes.set_axis_off()
    count = len(query.names)
    for i, (name, is_right) in enumerate(zip(query.names, query.is_right, strict=True)):
        y = 1 - (i + 0.5) / count
        style = {"color": RIGHT if is_right else WRONG, "fontsize": 8, "va": "center"}
        weight = "bold" if is_right else "normal"
        axes.text(0.05, y, _shorten(name, 40), weight=weight, **style)
        if is_right:
            axes.text(0, y, "✓", **style)


def _write(axes, text):
    import textwrap

    axes.set_axis_off()
    lines = textwrap.fill(text, 20)
    axes.text(0.96, 0.5, lines, fontsize=8, color=INK, ha="right", va="center")


def _show(axes, image, frame=None):
    pixels = np.clip((to_unit_range(image[None])[0] + 1) / 2, 0, 1)
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=frame or FAINT, linewidth=2.5 if frame else 0.6)


def _shorten(text, length):
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _figure(width, height, **options):
    # A bare Figure draws with Agg and leaves the process's backend and pyplot alone.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def _margins(figure):
    width, height = figure.get_size_inches()
    return {
        "left": 0.15 / width,
        "right": 1 - 0.15 / width,
        "top": 1 - 0.42 / height,
        "bottom": 0.3 / height,
    }


def _finish(figure, path, title, attribution):
    width, height = figure.get_size_inches()
    left = 0.15 / width
    figure.text(left, 1 - 0.12 / height, title, fontsize=11, color=INK, va="top")
    figure.text(left, 0.08 / height, attribution, fontsize=6.5, color=WRONG, va="bottom")
    _save(figure, path)


def _save(figure, path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
