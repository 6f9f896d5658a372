"""Puts pictures into the page, and keeps files of them if asked to."""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
from jaxtyping import UInt8

from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.rasters import data_uri, save_png

LARGEST = 320
PIXELATED = 128  # images up to this many pixels are shown with their pixels as squares
MAX_NAME = 80  # letters of a file's name
UNUSUAL = re.compile(r"[^A-Za-z0-9_.-]+")  # in a file's name or an element's id


@dataclasses.dataclass(frozen=True)
class Output:
    """Embeds pictures.

    Attributes:
        directory: keeps a PNG of each that has a name; None for no files.
    """

    directory: pathlib.Path | None
    _names: set[str] = dataclasses.field(default_factory=set)

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
        if name and self.directory is not None:
            save_png(image, self.directory / f"{self._new_name(name)}.png")
        height, width = image.shape[:2]
        kind = "sharp" if max(height, width) <= PIXELATED else None
        size = {"width": width, "height": height, "class_": kind}
        return tag("img", src=data_uri(image, largest), alt=alt, **size, **attributes)

    def _new_name(self, name):
        """The name made fit for files and ids, with a number where another had it already."""
        plain = UNUSUAL.sub("-", name)[:MAX_NAME]
        found, count = plain, 1
        while found in self._names:
            count += 1
            found = f"{plain}-{count}"
        self._names.add(found)
        return found
