"""Where the page's pictures go: into it, and beside it."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from toklip_jax.report.charts import as_svg
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.rasters import data_uri, save_png


@dataclasses.dataclass(frozen=True)
class Output:
    """Embeds pictures and charts, and keeps a PNG of each in `directory`."""

    directory: pathlib.Path

    def picture(
        self, image: UInt8[np.ndarray, "h w 3"], alt: str, name: str = "", **attributes: Any
    ) -> Markup:
        """Returns an `img`; also writes NAME.png if there is a name."""
        if name:
            save_png(image, self.directory / f"{name}.png")
        height, width = image.shape[:2]
        size = {"width": width, "height": height}
        return tag("img", src=data_uri(image), alt=alt, **size, **attributes)

    def chart(self, figure: Any, name: str, alt: str, caption: str | Markup = "") -> Markup:
        """Returns a `figure` element of a chart, and writes NAME.png."""
        svg = as_svg(figure, name)
        figure.savefig(self.directory / f"{name}.png", facecolor="white")
        chart = tag("div", Markup(svg), class_="chart", role="img", aria_label=alt)
        return tag("figure", chart, tag("figcaption", caption) if caption else None)
