"""The released models' resizing: Pillow images in, uint8 RGB out. Pillow's bicubic antialiases."""

import math
import pathlib

import numpy as np
import PIL.Image
from jaxtyping import UInt8

BICUBIC = PIL.Image.Resampling.BICUBIC
RATIO = (3 / 4, 4 / 3)  # of width to height; torchvision's default
CROP_TRIES = 10  # before a centre crop; torchvision's


def squash(image: PIL.Image.Image, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image resized to a square, its aspect ratio lost.

    The resize comes before the conversion to RGB, as in the released code: transparency is weighed
    by the resize, then dropped; palette images are resized by nearest neighbour.
    """
    return _to_rgb(image.resize((size, size), BICUBIC))


def shortest_side_crop(image: PIL.Image.Image, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the centre square of the image with its shorter side resized to `size`.

    Sizes and offsets are rounded as torchvision's Resize and CenterCrop do.
    """
    shorter = min(image.size)
    width, height = (size if side == shorter else int(size * side / shorter) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), BICUBIC)
    return _to_rgb(resized.crop((left, top, left + size, top + size)))


def random_resized_crop(
    image: PIL.Image.Image,
    size: int,
    scale: tuple[float, float],
    rng: np.random.Generator,
    ratio: tuple[float, float] = RATIO,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a random part of the image, resized to a square.

    Args:
        scale: the part's share of the area; the released recipe's is (0.9, 1).
        ratio: of its width to its height.

    Source: torchvision's RandomResizedCrop, its sampling rule; the random numbers differ.
    """
    left, top, width, height = _sample_box(*image.size, scale, ratio, rng)
    return _to_rgb(
        image.crop((left, top, left + width, top + height)).resize((size, size), BICUBIC)
    )


def read_image(path: str | pathlib.Path) -> PIL.Image.Image:
    """Reads an image file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no image, or is cut off.
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


def _sample_box(width, height, scale, ratio, rng):
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    aspect = min(max(width / height, ratio[0]), ratio[1])  # nothing fitted: the largest that does
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (width - w) // 2, (height - h) // 2, w, h
