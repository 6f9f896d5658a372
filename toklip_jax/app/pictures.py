"""Pictures that come in, of which nothing is trusted, and those that go out."""

import base64
import io
import itertools
import os
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Float, UInt8

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.health import BadSample
from toklip_jax.data.images import DEFAULT_RESIZE, FORMATS, RESIZES, open_image, to_8_bits
from toklip_jax.data.sources.image_folder import IMAGE_SUFFIXES
from toklip_jax.data.sources.records import read_image_bytes
from toklip_jax.ops.pixels import to_uint8

MAX_PIXELS = 2**26  # as training takes them; the header tells, before anything is decoded
URI = "data:image/png;base64,"
WHITE = "white"  # under what is transparent


def read_picture(source: bytes | pathlib.Path, size: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture as the models see it: turned as its EXIF data say, and resized.

    Args:
        source: the encoded picture, or the path of its file.

    Raises:
        ValueError: it is no picture of `FORMATS`, damaged, or larger than `MAX_PIXELS`; or its file
            can't be read.
    """
    try:
        data = source if isinstance(source, bytes) else read_image_bytes(str(source))
        picture = open_image(data, min_side=1, max_pixels=MAX_PIXELS)
        picture.load()
        picture = _on_white(PIL.ImageOps.exif_transpose(picture))
        return RESIZES[DEFAULT_RESIZE](to_8_bits(picture), size)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsing meets
        cause = error.cause if isinstance(error, BadSample) else "damaged"
        raise UserError(
            f"expected a picture of at most {MAX_PIXELS // 10**6} million pixels as "
            f"{', '.join(FORMATS)}, got one that can't be used ({cause})"
        ) from error


def list_pictures(folder: str, most: int) -> list[pathlib.Path]:
    """Returns the first `most` pictures of a folder and the folders within it, sorted.

    Links to files are followed; what is no file, such as a pipe, is passed over.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no picture in it.
    """
    root = expand_user(folder)
    if not root.is_dir():
        raise NotFound(f"expected a folder of pictures in --folder, found none at {folder}")
    found = sorted(
        pathlib.Path(parent, name)
        for parent, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
        and not name.startswith(".")
        and os.path.isfile(os.path.join(parent, name))
    )
    if not found:
        raise UserError(f"expected pictures in --folder, found none in {folder}")
    return list(itertools.islice(found, most))


def as_uri(image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]) -> str:
    """Returns an image, uint8 or of floats in [-1, 1], as a data URI of a PNG."""
    levels = image if image.dtype == np.uint8 else to_uint8(image)
    file = io.BytesIO()
    PIL.Image.fromarray(levels).save(file, "PNG", compress_level=1)
    return URI + base64.b64encode(file.getvalue()).decode()


def opened_uri(uri: str | None) -> PIL.Image.Image:
    """Returns the picture of a data URI that `as_uri` made.

    Raises:
        ValueError: it is another text, or another picture.
    """
    try:
        data = base64.b64decode(str(uri).removeprefix(URI), validate=True)
        picture = open_image(data, min_side=1, max_pixels=MAX_PIXELS)
        picture.load()
    except Exception as error:  # Pillow's plugins raise whatever their parsing meets
        raise UserError("expected a picture as this app sends it, got another text") from error
    return picture.convert("RGB")


def _on_white(picture):
    """A picture without transparency: models were trained on pictures that have none."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    above = picture.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", above.size, WHITE), above).convert("RGB")
