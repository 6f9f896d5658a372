"""Puts pictures into the page, and keeps a file of each beside it."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from toklip_jax.report.charts import as_svg
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.rasters import data_uri, save_png

LARGEST = 320
PIXELATED = 128  # images up to this many pixels are shown with their pixels as squares


@dataclasses.dataclass(frozen=True)
class Output:
    """Embeds pictures and charts, and keeps a PNG of each in `directory`."""

    directory: pathlib.Path

    def picture(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        alt: str,
        name: str = "",
        largest: int = LARGEST,
        **attributes: Any,
    ) -> Markup:
        """Returns an `img`; also writes NAME.png if there is a name.

        Args:
            largest: pixels that the page has of it at most; the file has all.
        """
        if name:
            save_png(image, self.directory / f"{name}.png")
        height, width = image.shape[:2]
        kind = "sharp" if max(height, width) <= PIXELATED else None
        size = {"width": width, "height": height, "class_": kind}
        return tag("img", src=data_uri(image, largest), alt=alt, **size, **attributes)

    def chart(self, figure: Any, name: str, alt: str, caption: str | Markup = "") -> Markup:
        """Returns a `figure` element of a chart, and writes NAME.png."""
        svg = as_svg(figure, name)
        figure.savefig(self.directory / f"{name}.png", facecolor="white")
        width = f"--width:{figure.get_size_inches()[0]:.1f}in"
        chart = tag("div", Markup(svg), class_="chart", style=width, role="img", aria_label=alt)
        return tag("figure", chart, tag("figcaption", caption) if caption else None)
