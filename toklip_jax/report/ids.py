"""The page's section of ids: an image as the rest of the model sees it."""

from collections.abc import Sequence

import numpy as np

from toklip_jax.report.gallery import Gallery
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section, scroll_box
from toklip_jax.report.rasters import code_colors
from toklip_jax.report.wording import place_text

NUM_GRIDS = 4  # images whose ids are shown
MAX_WRITTEN = 256  # places of an image whose ids are written out
MAX_LETTERS = 9  # of a place's ids that are written out
ROOM = 230  # pixels that a grid has where two images stand beside each other
CELL = 26  # units of a grid's cell
FONT, DIGIT = 9, 0.6  # units of the largest font; a digit's width in ems
LEGIBLE = 12.2  # pixels of the font at least, on any screen


def ids_section(gallery: Gallery, output: Output) -> Section:
    """Returns the ids of some images as grids of colours and numbers."""
    shown = np.arange(len(gallery.images))[:NUM_GRIDS]
    colors = code_colors(gallery.code_vectors[shown])
    labels = [[place_text(place) for place in gallery.ids[i]] for i in shown]
    num_places = len(labels[0])
    written = [label for image in labels for label in image]
    longest = max(map(len, written))
    is_written = num_places <= MAX_WRITTEN and longest <= MAX_LETTERS
    figures = []
    for i in shown:
        name = gallery.names[i]
        image = tag("div", output.picture(gallery.images[i], name), class_="picture")
        grid = id_grid(labels[i], colors[i], gallery.grid, name, is_written=is_written)
        pair = tag("div", image, scroll_box(grid, f"Ids of {name}"), class_="pair")
        figures.append(tag("figure", pair, tag("figcaption", name)))
    fits = is_written and _least_width(written, gallery.grid[1]) <= ROOM
    layout = "cards" if fits else "cards fine"
    lead = _lead(gallery.ids.shape[2] if gallery.ids.ndim == 3 else 1, is_written)
    return Section("ids", "Ids", lead, tag("div", figures, class_=layout))


def id_grid(
    labels: Sequence[str],
    colors: np.ndarray,
    grid: tuple[int, int],
    title: str,
    *,
    is_written: bool,
) -> Markup:
    """Returns an image's ids as a drawing.

    Args:
        labels: the ids of each place, row by row.
        colors: uint8 [n, 3], of each place.
        grid: (height, width).
        title: the image's title.
        is_written: whether the ids stand in their places, or appear on pointing only.
    """
    height, width = grid
    cells = []
    for place, (label, color) in enumerate(zip(labels, colors, strict=True)):
        y, x = divmod(place, width)
        box = {"x": x * CELL, "y": y * CELL, "width": CELL, "height": CELL}
        cells.append(tag("rect", tag("title", label), **box, fill="#" + bytes(color).hex()))
        if is_written:
            cells.append(tag("text", label, x=(x + 0.5) * CELL, y=(y + 0.5) * CELL))
    return tag(
        "svg",
        cells,
        viewBox=f"0 0 {width * CELL} {height * CELL}",
        class_="ids",
        role="img",
        aria_label=f"The ids of the {len(labels)} places of {title}: {_first(labels)}",
        style=_style(labels, width, is_written),
    )


def _lead(ids_per_place, is_written):
    if ids_per_place == 1:
        lead = (
            "An image as the rest of the model sees it: one id for each patch, row by row, which "
            "is a place in the codebook. Codes that are near each other in the codebook have "
            "similar colours."
        )
    else:
        lead = (
            f"An image as the rest of the model sees it: {ids_per_place} ids for each patch, one "
            f"from each codebook, row by row. Patches whose ids stand for similar vectors have "
            f"similar colours."
        )
    return lead + ("" if is_written else " They don't fit in here; point at a patch to read them.")


def _style(labels, width, is_written):
    """Numbers as large as the longest allows, in a grid wide enough for them to be legible."""
    if not is_written:
        return None
    return f"font-size:{_size(labels):.1f}px;min-width:{_least_width(labels, width):.0f}px"


def _size(labels):
    """Units of the font in which the longest label fits its cell."""
    return min(FONT, 0.9 * CELL / (DIGIT * max(map(len, labels))))


def _least_width(labels, width):
    """Pixels of a grid of so many columns in which its labels are legible."""
    return width * CELL * LEGIBLE / _size(labels)


def _first(labels, count=8):
    return ", ".join(labels[:count]) + (", …" if len(labels) > count else "")
