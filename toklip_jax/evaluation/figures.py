"""Draws results with Matplotlib, which is imported where it is used and never opens a window."""

import math
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from toklip_jax.ops.pixels import to_unit_range

INK, MUTED, FAINT = "#1f2328", "#57606a", "#d0d7de"
DPI = 150
SMOOTHING = 0.05  # share of a curve's points over which it is smoothed
Images = Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"]
Path = str | pathlib.Path


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
        reconstructions: as many images, in the same order.
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
            bottom.set_xlabel(notes[i], fontsize=9.5, color=MUTED, labelpad=2)
    _finish(figure, path, title, attribution)


def smooth(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns the centred moving average, whose window shrinks at both ends."""
    half = int(len(values) * SMOOTHING / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    start, stop = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def _show(axes, image):
    pixels = np.clip((to_unit_range(image[None])[0] + 1) / 2, 0, 1)
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.6)


def _figure(width, height):
    # A bare Figure draws with Agg and leaves the process's backend and pyplot alone.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


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
    figure.text(left, 1 - 0.12 / height, title, fontsize=12, color=INK, va="top")
    figure.text(left, 0.08 / height, attribution, fontsize=9, color=MUTED, va="bottom")
    _save(figure, path)


def _save(figure, path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
