"""The check of the images that users pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float32

from toklip_jax.data.images.resizing import squash
from toklip_jax.ops.pixels import to_unit_range

RANGE_SLACK = 1e-5  # rounding of float images at the ends of [-1, 1]


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
        return to_unit_range(array)
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
