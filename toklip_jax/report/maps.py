"""The page's section of maps: where in an image a text is."""

from toklip_jax.report.gallery import Gallery
from toklip_jax.report.markup import tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section
from toklip_jax.report.parts import color_scale
from toklip_jax.report.phrases import TextMaps
from toklip_jax.report.rasters import overlay, paint, similarity_colors

NUM_STATIC = 3  # phrases whose maps are there without the script
MAP_PIXELS = 192  # of a large image under a map


def map_section(gallery: Gallery, maps: TextMaps, output: Output) -> Section:
    """Returns where in the images the first phrases are, and the form that asks for others."""
    lead = [
        "How similar each patch's own token is to a text (cosine). Tokens are computed from ids "
        "alone, and training never says where in an image anything is: a map is a hint at what "
        "the tokens hold, not a segmentation. ",
        f"The page knows {len(maps.phrases):,} phrases; ",
        tag("code", '--phrase="…"'),
        " adds others.",
    ]
    if maps.kept < 1:
        lead.append(
            f" To keep the page small, features are reduced to {maps.text.shape[1]} directions, "
            f"which keep {maps.kept:.1%} of their squared length."
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
    scale = color_scale(similarity_colors(), f"{maps.low:.2f}", f"{maps.high:.2f} and more")
    canvases = [_canvas(gallery, i, output) for i in range(len(gallery.images))]
    interactive = tag("div", form, tag("div", canvases, class_="maps"), class_="with-script")
    static = tag("div", _static_maps(gallery, maps, output), class_="without-script")
    return Section("where", "Where a text is in the image", lead, [interactive, static, scale])


def map_data(maps: TextMaps) -> dict:
    """Returns what the page's script needs to draw maps."""
    return maps.as_json() | {"colors": similarity_colors().ravel().tolist()}


def _canvas(gallery, i, output):
    """An image under a canvas of one pixel a patch, which the script draws the map on."""
    name = gallery.names[i]
    height, width = gallery.grid
    image = output.picture(gallery.images[i], name, largest=MAP_PIXELS)
    canvas = tag(
        "canvas",
        width=width,
        height=height,
        role="img",
        aria_label=f"Map of {name}",
        data_image=i,
        data_title=name,
    )
    over = tag("div", image, canvas, class_="over")
    return tag("figure", over, tag("figcaption", name, " ", tag("small", class_="best")))


def _static_maps(gallery, maps, output):
    """Maps of the first phrases, for readers without a script, and as files."""
    parts = []
    for p, phrase in enumerate(maps.phrases[:NUM_STATIC]):
        figures = []
        for i, name in enumerate(gallery.names):
            values = maps.similarity(p)[i].reshape(gallery.grid)
            colors = paint(values, maps.low, maps.high, similarity_colors())
            picture = output.picture(
                overlay(gallery.images[i], colors),
                f"Where “{phrase}” is in {name}",
                name=f"map-{p}-{i}",
                largest=MAP_PIXELS,
            )
            figures.append(tag("figure", picture, tag("figcaption", name)))
        parts += [tag("h3", f"“{phrase}”"), tag("div", figures, class_="maps")]
    return parts
