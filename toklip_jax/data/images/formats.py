"""The picture formats that are read, and pictures of more than 8 bits.

Every picture that the package opens is opened here. Pillow itself would try each format it knows,
whatever a file is called, and some of them start other programs: PostScript starts Ghostscript.
"""

import functools
from typing import Any

import numpy as np
import PIL.Image

from toklip_jax.core.errors import UserError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_SCALED_BY_PILLOW = ("PNG", "PPM")  # their mode "I" is always of 16 bits
_TO_8_BITS = 257  # 65535 / 255


def open_picture(file: Any) -> PIL.Image.Image:
    """Reads the header of a picture, from a path or a binary file, in one of `FORMATS`.

    Raises:
        Exception: whatever Pillow raises of a file that is none, most often an OSError.
    """
    return PIL.Image.open(file, formats=_known_formats())


def to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Returns a grey picture of 16 bits, or of floats in [0, 1], scaled to 8; others as they are.

    Pillow's own conversion clips at 255, which makes such pictures white or black.

    Raises:
        ValueError: floats beyond [0, 1], or 32-bit integers, whose range nothing tells.
    """
    is_16_bits = image.mode == "I" and image.format in _SCALED_BY_PILLOW
    if is_16_bits or image.mode in _SIXTEEN_BITS:
        levels = np.asarray(image).astype(np.uint32)
        levels = (levels + _TO_8_BITS // 2) // _TO_8_BITS
        return PIL.Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        levels = np.asarray(image, np.float32)
        least, most = float(levels.min()), float(levels.max())
        if image.mode == "I" or not (least >= 0 and most <= 1):  # NaN fails too
            raise UserError(
                f"expected a picture of 8 or 16 bits, or of floats in [0, 1], got mode "
                f"{image.mode} with values from {least:.4g} to {most:.4g}: scale it to 8 bits"
            )
        return PIL.Image.fromarray(np.rint(levels * 255).astype(np.uint8))
    return image


@functools.cache
def _known_formats():
    """Returns those of `FORMATS` that this Pillow was built with."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)
