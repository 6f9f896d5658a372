"""The page's sections of images: reconstructions, ids, where a text is, nearest neighbours."""

from typing import SupportsIndex

import jax.numpy as jnp
import numpy as np

from toklip_jax.evaluation.figures import reconstruction_grid
from toklip_jax.metrics import psnr
from toklip_jax.ops.grids import square_grid
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.report.gallery import NUM_NEIGHBOURS, Gallery, Pool
from toklip_jax.report.markup import Child, Markup, tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section, scroll_box
from toklip_jax.report.phrases import TextMaps
from toklip_jax.report.rasters import (
    absolute_errors,
    code_colors,
    error_colors,
    overlay,
    paint,
    similarity_colors,
    to_bytes,
)

ERRORS = 99  # percentile of all errors that the last colour stands for
NUM_GRIDS = 4  # images whose ids are shown
NUM_QUERIES = 6  # images whose neighbours are shown
NUM_STATIC = 3  # phrases whose maps are there without the script
MAX_NUMBERS = 256  # ids of an image that are written out
COARSE = 64  # ids of an image up to which two grids fit beside each other
CELL = 26  # units of a grid's cell
MAP_PIXELS = 192  # of a large image under a map


def reconstruction_section(gallery: Gallery, output: Output) -> Section:
    """Returns originals, reconstructions and where they differ."""
    errors = absolute_errors(gallery.images, gallery.restored)
    limit = float(np.percentile(errors, ERRORS))
    originals, restored = to_unit_range(gallery.images), gallery.restored
    ratios = psnr(jnp.asarray(originals), jnp.asarray(restored))
    notes = [f"{ratio:.2f} dB" for ratio in ratios]
    file = output.directory / "reconstructions.png"
    reconstruction_grid(originals, restored, file, notes=notes, attribution=gallery.attribution)
    cards = []
    for i, title in enumerate(gallery.names):
        pictures = (
            (gallery.images[i], "original"),
            (to_bytes(gallery.restored[i]), "from its ids"),
            (paint(errors[i], 0.0, limit, error_colors()), "error"),
        )
        shown = [
            tag("div", output.picture(image, f"{title}: {what}"),
                tag("small", what))
            for image, what in pictures
        ]  # fmt: skip
        caption = tag("figcaption", tag("b", title), " ", notes[i])
        cards.append(tag("figure", tag("div", shown, class_="triple"), caption))
    n, size = gallery.ids.shape[1], gallery.images.shape[1]
    lead = (
        f"Images of {size} by {size} pixels, drawn again from their {n} ids alone. The error is "
        f"the mean over red, green and blue, in steps of 255; its colours are the same everywhere. "
        f"PSNR is in decibels: more is better."
    )
    body = [
        _scale(error_colors(), "0", f"{limit:.0f} and more"),
        tag("div", cards, class_="cards"),
        tag("p", tag("small", f"Images: {gallery.attribution}.")) if gallery.attribution else None,
    ]
    return Section("reconstructions", "Reconstructions", lead, body)


def ids_section(gallery: Gallery, output: Output) -> Section:
    """Returns the ids of some images as grids of colours and numbers."""
    shown = np.arange(len(gallery.images))[:NUM_GRIDS]
    colors = code_colors(gallery.code_vectors[shown])
    names = gallery.names
    figures = []
    for i in shown:
        image = output.picture(gallery.images[i], names[i])
        grid = _grid(gallery.ids[i], colors[i], names[i])
        pair = [tag("div", image, class_="picture"), grid]
        figures.append(tag("figure", tag("div", pair, class_="pair"), tag("figcaption", names[i])))
    layout = "cards" if gallery.ids.shape[1] <= COARSE else "cards fine"
    is_written = gallery.ids.shape[1] <= MAX_NUMBERS
    lead = (
        "An image as the rest of the model sees it: one id, a place in the codebook, for each "
        "patch, row by row. Codes that are near each other in the codebook have similar colours."
    )
    lead += "" if is_written else " There are too many to write out; point at one to read it."
    return Section("ids", "What ids are", lead, tag("div", figures, class_=layout))


def map_section(gallery: Gallery, maps: TextMaps, output: Output) -> Section:
    """Returns where in the images the first phrases are, and the form that asks for others."""
    lead = [
        "How similar each patch's own token is to a text (cosine). Tokens are made from ids alone, "
        "and training never says where anything is. ",
        f"The page knows {len(maps.phrases):,} phrases; ",
        tag("code", '--phrase="…"'),
        " adds others.",
    ]
    if maps.kept < 1:
        lead.append(
            f" To keep the page small, features are reduced to {maps.text.shape[1]} directions, "
            f"which hold {maps.kept:.1%} of them."
        )
    form = tag(
        "form",
        tag("label", "Look for", for_="phrase"),
        tag("input", id="phrase", name="phrase", list="phrases", autocomplete="off",
            spellcheck="false", value=maps.phrases[0]),
        tag("datalist", id="phrases"),
        tag("output", id="found", for_="phrase", aria_live="polite"),
        class_="ask",
    )  # fmt: skip
    scale = _scale(similarity_colors(), f"{maps.low:.2f}", f"{maps.high:.2f} and more")
    canvases = tag("div", [_canvas(gallery, i, output) for i in range(len(gallery.images))],
                   class_="maps")  # fmt: skip
    interactive = tag("div", form, canvases, class_="with-script")
    static = tag("div", _static_maps(gallery, maps, output), class_="without-script")
    return Section("where", "Where a text is", lead, [interactive, static, scale])


def map_data(maps: TextMaps) -> dict:
    """Returns what the page's script needs to draw maps."""
    return maps.as_json() | {"colors": similarity_colors().ravel().tolist()}


def neighbour_section(gallery: Gallery, output: Output) -> Section:
    """Returns some images and those whose features are nearest."""
    title, pool = "Nearest neighbours", gallery.pool
    if len(pool.titles) < 2:
        return Section("neighbours", title, "Left out: there is only one image to look among.")
    places, scores = gallery.neighbours(NUM_NEIGHBOURS)
    rows = []
    for i in range(len(gallery.images))[:NUM_QUERIES]:
        query = thumbnail(output, pool, gallery.picks[i], tag("small", "asked"), "asked")
        found = [
            thumbnail(output, pool, place, tag("small", f"{score:.2f}"))
            for place, score in zip(places[i], scores[i], strict=True)
        ]
        rows.append(tag("li", query, found))
    lead = f"The images whose features, made from ids alone, are nearest (cosine), {gallery.among}."
    content = scroll_box(tag("ul", rows, class_="neighbours"), "Nearest neighbours")
    return Section("neighbours", title, lead, content)


def thumbnail(
    output: Output, pool: Pool, place: SupportsIndex, note: Child, kind: str | None = None
) -> Markup:
    """Returns a small image of the pool over a note and its name."""
    title, image = pool.name(place), pool.thumbnails[place]
    picture = output.picture(image, title, title=title)
    return tag("figure", picture, tag("figcaption", note, tag("span", title)), class_=kind)


def _scale(colors, low, high):
    css = ",".join("#" + bytes(stop).hex() for stop in colors[:: 255 // 15])
    bar = tag("span", class_="bar", style=f"background:linear-gradient(90deg,{css})")
    label = f"Colours from {low} to {high}"
    return tag("p", low, " ", bar, " ", high, class_="scale", role="img", aria_label=label)


def _grid(ids, colors, title) -> Markup:
    side = square_grid(len(ids))[0]
    cells = []
    for place, (code, color) in enumerate(zip(ids, colors, strict=True)):
        y, x = divmod(place, side)
        box = {"x": x * CELL, "y": y * CELL, "width": CELL, "height": CELL}
        fill = "#" + bytes(color).hex()
        cells.append(tag("rect", tag("title", str(code)), **box, fill=fill))
        if len(ids) <= MAX_NUMBERS:
            middle = {"x": (x + 0.5) * CELL, "y": (y + 0.5) * CELL}
            cells.append(tag("text", str(code), **middle))
    size = side * CELL
    svg = tag("svg", cells, viewBox=f"0 0 {size} {size}", class_="ids", role="img",
              aria_label=f"The {len(ids)} ids of {title}: {_first(ids)}",
              style=_grid_style(ids, side))  # fmt: skip
    return scroll_box(svg, f"Ids of {title}")


def _grid_style(ids, side):
    """Numbers as large as the longest allows, and a grid that isn't too small for them."""
    digits = len(str(max(ids)))
    size = min(9, 0.9 * CELL / (0.6 * digits))  # a digit is 0.6 em wide
    is_large = 8 < side <= MAX_NUMBERS**0.5
    return f"font-size:{size:.1f}px" + (f";min-width:{20 * side}px" if is_large else "")


def _first(ids, count=8):
    return ", ".join(map(str, ids[:count])) + (", …" if len(ids) > count else "")


def _canvas(gallery, i, output):
    name = gallery.names[i]
    image = output.picture(gallery.images[i], name, largest=MAP_PIXELS)
    side = square_grid(gallery.ids.shape[1])[0]
    canvas = tag("canvas", width=side, height=side, role="img", aria_label=f"Map of {name}",
                 data_image=i, data_title=name)  # fmt: skip
    over = tag("div", image, canvas, class_="over")
    return tag("figure", over, tag("figcaption", name, " ", tag("small", class_="best")))


def _static_maps(gallery, maps, output):
    """Maps of the first phrases, for readers without a script, and as files."""
    parts = []
    side = square_grid(gallery.ids.shape[1])[0]
    for p, phrase in enumerate(maps.phrases[:NUM_STATIC]):
        figures = []
        for i, name in enumerate(gallery.names):
            values = maps.similarity(p)[i].reshape(side, side)
            colors = paint(values, maps.low, maps.high, similarity_colors())
            shown = overlay(gallery.images[i], colors)
            picture = output.picture(
                shown, f"Where “{phrase}” is in {name}", f"map-{p}-{i}", MAP_PIXELS
            )
            figures.append(tag("figure", picture, tag("figcaption", name)))
        parts += [tag("h3", f"“{phrase}”"), tag("div", figures, class_="maps")]
    return parts
