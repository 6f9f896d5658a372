"""The page's section of reconstructions."""

import jax.numpy as jnp
import numpy as np

from toklip_jax.evaluation.figures import reconstruction_grid
from toklip_jax.metrics import psnr
from toklip_jax.ops.pixels import to_uint8, to_unit_range
from toklip_jax.report.gallery import Gallery
from toklip_jax.report.markup import tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section
from toklip_jax.report.parts import color_scale
from toklip_jax.report.rasters import absolute_errors, error_colors, paint
from toklip_jax.report.wording import size_text

ERRORS = 99  # percentile of all errors that the last colour stands for


def reconstruction_section(gallery: Gallery, output: Output) -> Section:
    """Returns originals, reconstructions and where they differ."""
    errors = absolute_errors(gallery.images, gallery.restored)
    limit = float(np.percentile(errors, ERRORS))
    originals, restored = to_unit_range(gallery.images), gallery.restored
    ratios = psnr(jnp.asarray(originals), jnp.asarray(restored))
    notes = [f"{ratio:.2f} dB" for ratio in ratios]
    if output.directory is not None:
        file = output.directory / "reconstructions.png"
        reconstruction_grid(originals, restored, file, notes=notes, attribution=gallery.attribution)
    cards = []
    for i, title in enumerate(gallery.names):
        pictures = (
            (gallery.images[i], "original"),
            (to_uint8(gallery.restored[i]), "from its ids"),
            (paint(errors[i], 0.0, limit, error_colors()), "error"),
        )
        shown = [
            tag("div", output.picture(image, f"{title}: {what}"), tag("small", what))
            for image, what in pictures
        ]
        caption = tag("figcaption", tag("b", title), " ", notes[i])
        cards.append(tag("figure", tag("div", shown, class_="triple"), caption))
    lead = (
        f"Images of {size_text(gallery.images.shape[1:3])}, drawn again from their "
        f"{gallery.ids[0].size} ids alone. The error is the mean over red, green and blue, in "
        f"steps of 255; its colours are the same in all images. PSNR is in decibels: higher is "
        f"better."
    )
    body = [
        color_scale(error_colors(), "0", f"{limit:.0f} and more"),
        tag("div", cards, class_="cards"),
        tag("p", tag("small", f"Images: {gallery.attribution}.")) if gallery.attribution else None,
    ]
    return Section("reconstructions", "Reconstructions", lead, body)
