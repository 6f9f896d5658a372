"""The released models' resizing: Pillow images in, uint8 RGB out.

All of it is bicubic and antialiased, as Pillow's is. Sizes are the side of a square, or (height,
width).
"""

import math
import pathlib

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from toklip_jax.data.images.sizes import Size, sides_of

BICUBIC = PIL.Image.Resampling.BICUBIC
RATIO = (3 / 4, 4 / 3)  # width over height; torchvision's default
CROP_TRIES = 10  # before a centre crop instead; torchvision's


def squash(image: PIL.Image.Image, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image resized to `size`; its aspect ratio is lost.

    The resize comes before the conversion to RGB, as in the released code: it weights pixels by
    their opacity, which is then dropped, and resizes palette images by nearest neighbour.
    """
    height, width = sides_of(size)
    return _to_rgb(image.resize((width, height), BICUBIC))


def shortest_side_crop(image: PIL.Image.Image, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the centre of the image, resized so that it just covers `size`.

    For a square that is the centre square, with the shorter side resized to `size`. Sizes and
    offsets are rounded as torchvision's Resize and CenterCrop do.
    """
    height, width = sides_of(size)
    if width * image.height >= height * image.width:  # what is cut off is above and below
        covering = width, max(height, int(width * image.height / image.width))
    else:
        covering = max(width, int(height * image.width / image.height)), height
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
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
    """
    height, width = sides_of(size)
    box = _sample_box(image.size, scale, ratio, rng)
    return _to_rgb(image.crop(box).resize((width, height), BICUBIC))


def read_image(path: str | pathlib.Path) -> PIL.Image.Image:
    """Reads an image file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no image, or is truncated.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected an image file, found no file {path}: check the path")
    try:
        with PIL.Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError) as error:  # Pillow: broken PNGs are SyntaxErrors
        raise ValueError(
            f"expected an image that Pillow reads, got {path} ({error}): replace or convert it"
        ) from error


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
