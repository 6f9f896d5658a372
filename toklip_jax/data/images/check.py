"""The check of the images that users pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float32

from toklip_jax.data.images.resizing import squash
from toklip_jax.data.images.sizes import Size, sides_of, simplest
from toklip_jax.ops.pixels import to_unit_range

RANGE_SLACK = 1e-5  # rounding of float images at the ends of [-1, 1]


def check_images(images: Any, image_size: Size) -> Float32[np.ndarray, "b *size 3"]:
    """Returns what a user passed as images, in [-1, 1].

    Args:
        images: RGB arrays [b, *size, 3], uint8 or float in [-1, 1]; or, unless they are videos, a
            sequence of Pillow images of any size, which are squashed.
        image_size: the side of a square in pixels, (height, width), or (frames, height, width).

    Raises:
        ValueError: another shape, type or range; says what to do.
    """
    size = sides_of(image_size)
    expected = f"expected images {_shape_text(size)}"
    if isinstance(images, PIL.Image.Image):
        raise ValueError(f"{expected} or a list of Pillow images, got one image: pass [image]")
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        images = _stack(images, size, expected)
    array = np.asarray(images)
    check_image_array(array, image_size)
    if array.dtype == np.uint8:
        return to_unit_range(array)
    array = array.astype(np.float32)
    low, high = array.min(), array.max()
    if not (low >= -1 - RANGE_SLACK and high <= 1 + RANGE_SLACK):  # NaN fails too
        raise ValueError(
            f"{expected} with floats in [-1, 1], got values from {low:.4g} to {high:.4g}: "
            f"pass uint8, or scale them"
        )
    return array


def check_image_array(array: Any, image_size: Size) -> None:
    """Checks an array's shape and type alone, so that JAX arrays may be traced.

    Args:
        array: has a `shape` and a `dtype`.
        image_size: as for `check_images`.

    Raises:
        ValueError: it is not [b, *size, 3] of uint8 or floats; says what to do.
    """
    size = sides_of(image_size)
    expected = f"expected images {_shape_text(size)}"
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if not is_float and array.dtype != np.uint8:
        raise ValueError(
            f"{expected} of uint8, or float in [-1, 1], got {array.dtype}: convert them"
        )
    shape = tuple(array.shape)
    if len(shape) == len(size) + 2 and shape[0] > 0 and shape[1:] == (*size, 3):
        return
    raise ValueError(f"{expected}, got {shape}: {_advice(shape, len(size))}")


def _shape_text(size):
    return f"[b, {', '.join(map(str, size))}, 3]"


def _stack(images, size, expected):
    if len(images) == 0:
        raise ValueError(f"{expected}, got none: pass at least one")
    if all(isinstance(image, PIL.Image.Image) for image in images):
        if len(size) != 2:
            raise ValueError(f"{expected}, got Pillow images: pass an array of the frames")
        return np.stack([squash(image, size) for image in images])
    try:
        return np.stack([np.asarray(image) for image in images])
    except ValueError:
        shapes = sorted({np.shape(image) for image in images})
        raise ValueError(
            f"{expected}, got a list with the shapes {shapes}: resize them alike, "
            f"or pass Pillow images"
        ) from None


def _advice(shape, num_sides):
    """What to do about an array of another shape."""
    if len(shape) == num_sides + 1 and shape[-1] == 3:
        return "add a batch axis with images[None]"
    if len(shape) != num_sides + 2 or shape[0] == 0:
        return f"pass a batch of RGB {'images' if num_sides == 2 else 'videos'}"
    if shape[1] == 3 and shape[-1] != 3:
        axes = (0, *range(2, num_sides + 2), 1)
        return f"move the channels last with images.transpose{axes}"
    if shape[-1] != 3:
        return "convert them to RGB"
    return f"resize them, or load with image_size={simplest(shape[1:-1])}"
