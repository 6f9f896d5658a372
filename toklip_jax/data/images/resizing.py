"""The released models' resizing: Pillow images in, uint8 RGB out.

All of it is bicubic and antialiased, as Pillow's is. Sizes are the side of a square, or (height,
width). Work and memory are bounded by the pixels that come in and go out, whatever the picture's
shape.
"""

import math
import pathlib

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.data.images.formats import FORMATS, open_picture, to_8_bits
from toklip_jax.data.images.sizes import Size, sides_of

BICUBIC = PIL.Image.Resampling.BICUBIC
_REACH = 2  # pixels of the smaller image to each side that a bicubic value is made of
_STRIP = 16  # of a longer one, parts are cut off before the resize and not after it
_LARGE = 2**24  # pixels between the two passes of a resize
RATIO = (3 / 4, 4 / 3)  # width over height; torchvision's default
CROP_TRIES = 10  # before a centre crop instead; torchvision's


def squash(image: PIL.Image.Image, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image resized to `size`; its aspect ratio is lost.

    The resize comes before the conversion to RGB, as in the released code: it weights pixels by
    their opacity, which is then dropped, and resizes palette images by nearest neighbour.

    Raises:
        ValueError: as `to_8_bits`.
    """
    height, width = sides_of(size)
    return _to_rgb(_resize(to_8_bits(image), (width, height)))


def shortest_side_crop(image: PIL.Image.Image, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the centre of the image, resized so that it just covers `size`.

    For a square that is the centre square, with the shorter side resized to `size`. Sizes and
    offsets are rounded as torchvision's Resize and CenterCrop do. Of an image 16 times longer than
    that, the centre is cut out first, which is the same but for rounding.

    Raises:
        ValueError: as `to_8_bits`.
    """
    height, width = sides_of(size)
    image = to_8_bits(image)
    if width * image.height >= height * image.width:  # what is cut off is above and below
        covering = width, max(height, int(width * image.height / image.width))
    else:
        covering = max(width, int(height * image.width / image.height)), height
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    if covering[0] * covering[1] > _STRIP * width * height:
        return _to_rgb(_part_of_resized(image, covering, left, top, width, height))
    resized = image.resize(covering, BICUBIC)
    return _to_rgb(resized.crop((left, top, left + width, top + height)))


def random_resized_crop(
    image: PIL.Image.Image,
    size: Size,
    scale: tuple[float, float],
    rng: np.random.Generator,
    ratio: tuple[float, float] = RATIO,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a random part of the image, resized to `size`.

    Args:
        scale: bounds of the part's share of the area; the released recipe's are (0.9, 1).
        ratio: bounds of the part's width over its height, whatever `size` is.

    Source: torchvision's RandomResizedCrop, its sampling rule; the random numbers differ.

    Raises:
        ValueError: as `to_8_bits`.
    """
    height, width = sides_of(size)
    box = _sample_box(image.size, scale, ratio, rng)
    return _to_rgb(to_8_bits(image).crop(box).resize((width, height), BICUBIC))


def read_image(path: str | pathlib.Path) -> PIL.Image.Image:
    """Reads an image file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no image of `FORMATS`, or is truncated.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise NotFound(f"expected an image file, found no file {path}: check the path")
    try:
        with open_picture(path) as image:
            image.load()
            return image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsing meets
        raise UserError(
            f"expected an image of {', '.join(FORMATS)}, got {path} ({error}): replace or convert "
            f"it"
        ) from error


def _part_of_resized(image, covering, left, top, width, height):
    """Returns a part of the image resized to `covering`, of which no more is made."""
    columns, left, right = _window(left, width, covering[0], image.width)
    rows, top, bottom = _window(top, height, covering[1], image.height)
    image = image.crop((columns.start, rows.start, columns.stop, rows.stop))
    # Across and then down, as Pillow resizes the whole: between the two, values are rounded.
    image = image.resize((width, image.height), BICUBIC, (left, 0, right, image.height))
    return image.resize((width, height), BICUBIC, (0, top, width, bottom))


def _window(start, length, resized, size):
    """Returns the pixels along one axis that part of the resized image is made of.

    Beside them, the part's start and end among them, as fractions of pixels.
    """
    scale = size / resized
    first, last = start * scale, min((start + length) * scale, size)
    reach = math.ceil(_REACH * max(scale, 1)) + 1
    pixels = range(max(math.floor(first) - reach, 0), min(math.ceil(last) + reach, size))
    return pixels, first - pixels.start, last - pixels.start


def _resize(image, size):
    """Resizes, first down where Pillow's order, first across, would widen every row of a strip."""
    if size[0] * image.height > max(_LARGE, image.width * image.height):
        image = image.resize((image.width, size[1]), BICUBIC)
    return image.resize(size, BICUBIC)


def _to_rgb(image):
    return np.array(image.convert("RGB"))


def _sample_box(size, scale, ratio, rng):
    """Left, top, right and bottom of a random part of an image of `size` (width, height)."""
    width, height = size
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])  # nothing fitted: the largest that does
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
