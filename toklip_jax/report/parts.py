"""Small pieces that several sections of images have."""

from typing import SupportsIndex

from toklip_jax.report.markup import Child, Markup, tag
from toklip_jax.report.output import Output
from toklip_jax.report.pool import Pool


def thumbnail(
    output: Output, pool: Pool, place: SupportsIndex, note: Child, kind: str | None = None
) -> Markup:
    """Returns a small image of the pool over a note and its name."""
    title, image = pool.name(place), pool.thumbnails[place]
    picture = output.picture(image, title, title=title)
    return tag("figure", picture, tag("figcaption", note, tag("span", title)), class_=kind)


def color_scale(colors, low: str, high: str) -> Markup:
    """Returns a bar of `colors`, [256, c] bytes, between the values of its ends."""
    css = ",".join("#" + bytes(stop).hex() for stop in colors[:: 255 // 15])
    bar = tag("span", class_="bar", style=f"background:linear-gradient(90deg,{css})")
    label = f"Colours from {low} to {high}"
    return tag("p", low, " ", bar, " ", high, class_="scale", role="img", aria_label=label)
