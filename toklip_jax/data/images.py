"""Images as arrays: the released models' resizing, value ranges, and the check of what users pass.

Pillow images come in; uint8 RGB, or float32 in [-1, 1], goes out. Pillow's bicubic is antialiased.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, Float32, UInt8

BICUBIC = PIL.Image.Resampling.BICUBIC
RATIO = (3 / 4, 4 / 3)  # of width to height; torchvision's default
CROP_TRIES = 10  # before a centre crop; torchvision's
RANGE_SLACK = 1e-5  # rounding of float images at the ends of [-1, 1]


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


def to_float(images: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Returns values in [-1, 1], (u / 255 - 0.5) / 0.5: mean and deviation of the released models.

    Each step is rounded to float32, as theirs is.
    """
    half = np.float32(0.5)
    return (images.astype(np.float32) / np.float32(255) - half) / half


def to_uint8(images: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Returns values in [-1, 1], clipped, as uint8; undoes `to_float` exactly."""
    values = np.clip(np.asarray(images, np.float32), -1, 1)
    return np.rint((values + 1) * 127.5).astype(np.uint8)


def check_images(images: Any, image_size: int) -> Float32[np.ndarray, "b h w 3"]:
    """Returns what a user passed as images, in [-1, 1].

    Args:
        images: RGB arrays [b, h, w, 3], uint8 or float in [-1, 1]; or a sequence of Pillow images
            of any size, which are squashed.
        image_size: side of the images in pixels.

    Raises:
        ValueError: another shape, type or range; says what to do.
    """
    expected = f"expected images [b, {image_size}, {image_size}, 3]"
    if isinstance(images, PIL.Image.Image):
        raise ValueError(f"{expected} or a list of Pillow images, got one image: pass [image]")
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        images = _stack(images, image_size, expected)
    array = np.asarray(images)
    if array.dtype == np.uint8:
        _check_shape(array.shape, image_size, expected)
        return to_float(array)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"{expected} of uint8, or float in [-1, 1], got {array.dtype}: convert them"
        )
    _check_shape(array.shape, image_size, expected)
    array = array.astype(np.float32)
    low, high = array.min(), array.max()
    if not (low >= -1 - RANGE_SLACK and high <= 1 + RANGE_SLACK):  # NaN fails too
        raise ValueError(
            f"{expected} with floats in [-1, 1], got values from {low:.4g} to {high:.4g}: "
            f"pass uint8, or scale them"
        )
    return array


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


def _stack(images, image_size, expected):
    if len(images) == 0:
        raise ValueError(f"{expected}, got none: pass at least one")
    if all(isinstance(image, PIL.Image.Image) for image in images):
        return np.stack([squash(image, image_size) for image in images])
    try:
        return np.stack([np.asarray(image) for image in images])
    except ValueError:
        shapes = sorted({np.shape(image) for image in images})
        raise ValueError(
            f"{expected}, got a list with the shapes {shapes}: resize them alike, "
            f"or pass Pillow images"
        ) from None


def _check_shape(shape, image_size, expected):
    if len(shape) == 4 and shape[0] > 0 and shape[1:] == (image_size, image_size, 3):
        return
    if len(shape) == 3 and shape[-1] == 3:
        advice = "add a batch axis with images[None]"
    elif len(shape) != 4 or shape[0] == 0:
        advice = "pass a batch of RGB images"
    elif shape[1] == 3:
        advice = "move the channels last with images.transpose(0, 2, 3, 1)"
    elif shape[-1] != 3:
        advice = "convert them to RGB"
    elif shape[1] == shape[2]:
        advice = f"resize them, or load with image_size={shape[1]}"
    else:
        advice = "resize them"
    raise ValueError(f"{expected}, got {shape}: {advice}")
