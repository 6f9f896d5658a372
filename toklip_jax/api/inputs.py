"""The inputs that users pass: the one check of each kind, and their preparation for the model.

Shapes and types are always checked. Values are checked where they are on the host already. What is
traced has none, and what is on a device is not waited for, but for the first that a method gets
(`LoadedModel`).
"""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES, read_image, simplest
from toklip_jax.models.base import VQConfig, ids_shape, sides_taken
from toklip_jax.ops.pixels import to_unit_range

PATHS = (str, os.PathLike)
SINGLE = (PIL.Image.Image, *PATHS)  # what is one picture, and no batch
RANGE_SLACK = 1e-5  # rounding of float images at the ends of their range
_NOT_NUMBERS = {"O": "objects", "S": "bytes", "U": "text"}  # by numpy's kinds of dtypes
_KINDS = {2: ("images", ("h", "w")), 3: ("videos", ("frames", "h", "w"))}  # by number of sides


def are_texts(inputs: Any) -> bool:
    """Returns whether inputs are texts: a string, or a list of them."""
    if isinstance(inputs, list | tuple):
        return bool(inputs) and isinstance(inputs[0], str)
    return isinstance(inputs, str)


@runtime_checkable
class Inputs(Protocol):
    """One kind of inputs."""

    def check(self, inputs: Any) -> Any:
        """Returns the inputs as an array, or as a list of Pillow images and paths.

        Raises:
            ValueError: another shape, type or range; says what to do.
        """

    def check_values(self, array: np.ndarray) -> None:
        """Raises ValueError for values out of range, and warns of a range that looks like another.

        `check` calls it for arrays on the host.
        """

    def prepare(self, inputs: Any) -> Any:
        """Returns checked inputs as the model takes them; traceable, and of some rows as of all."""


@dataclasses.dataclass(frozen=True)
class Images:
    """RGB images or videos, uint8 or float in [-1, 1]; or Pillow images or paths, to be resized.

    An image without a batch axis is a batch of one: only images have three axes. Files are opened
    when they are prepared, a chunk at a time.

    Attributes:
        vq: config of the VQ tokenizer; None for a model without, which `size` tells all of.
        size: (height, width), or (frames, height, width) of videos; None takes every size that has
            a grid, of whatever the tokenizer takes: images, videos, or both.
        resize: how Pillow images are resized, one of `data.images.RESIZES`.
    """

    vq: VQConfig | None
    size: tuple[int, ...] | None
    resize: str = DEFAULT_RESIZE

    def check(self, images: Any) -> Any:
        images = [images] if isinstance(images, SINGLE) else images
        if isinstance(images, Sequence) and not isinstance(images, bytes):
            images = self._check_list(images)
            if isinstance(images, list):
                return images
        array = images if isinstance(images, jax.Array) else np.asarray(images)
        self._check_dtype(array)
        if array.ndim == 3 and array.shape[-1] == 3 and 2 in self._sides:
            array = array[None]
        self._check_shape(array.shape)
        if not isinstance(array, jax.Array):
            self.check_values(array)
        return array

    def check_values(self, array: np.ndarray) -> None:
        if array.dtype == np.uint8:
            return
        least, most = float(array.min()), float(array.max())
        if np.isnan(least):
            raise UserError(f"{self._expected} with floats in [-1, 1], got NaN among them")
        if not (least >= -1 - RANGE_SLACK and most <= 1 + RANGE_SLACK):
            raise UserError(
                f"{self._expected} with floats in [-1, 1], got values from "
                f"{least:.4g} to {most:.4g}: pass uint8, or scale them"
            )
        if 0 <= least < most <= 1:  # as torchvision's ToTensor gives them
            warnings.warn(
                f"{self._expected} with floats in [-1, 1], got values from {least:.4g} to "
                f"{most:.4g}, which look like [0, 1]: if they are, pass uint8, or 2 * images - 1",
                stacklevel=2,
            )

    def prepare(self, images: Any) -> Any:
        if isinstance(images, list):
            images = np.stack([self._resized(image) for image in images])
        if images.dtype != np.uint8:
            return images.astype(np.float32, copy=False)
        if isinstance(images, np.ndarray):
            return to_unit_range(images)
        # Bit-exact with the host's values: XLA divides otherwise.
        return jnp.take(to_unit_range(np.arange(256, dtype=np.uint8)), images, axis=0, mode="clip")

    @property
    def _expected(self):
        shapes = []
        for count in self._sides:
            name, letters = _KINDS[count]
            sides = ", ".join(map(str, self.size or letters))
            shapes.append(f"{name} [b, {sides}, 3]")
        return f"expected {' or '.join(shapes)}"

    @property
    def _sides(self) -> tuple[int, ...]:
        """How many sides an image or a video may have."""
        return sides_taken(self.vq) if self.size is None else (len(self.size),)

    def _check_list(self, images):
        if len(images) == 0:
            raise UserError(f"{self._expected}, got none: pass at least one")
        if all(isinstance(image, SINGLE) for image in images):
            self._check_resizable()
            return [self._check_picture(image) for image in images]
        stack = jnp if any(isinstance(image, jax.Array) for image in images) else np
        try:
            arrays = [stack.asarray(image) for image in images]
            whole = stack.stack(arrays)
        except (ValueError, TypeError):
            shapes = sorted({np.shape(image) for image in images})
            raise UserError(
                f"{self._expected}, got a list with the shapes {shapes}: resize them alike, "
                f"or pass Pillow images"
            ) from None
        if len({array.dtype == np.uint8 for array in arrays}) > 1:
            raise UserError(f"{self._expected}, got uint8 and floats in one list: pass uint8")
        return whole

    def _check_picture(self, image):
        """A Pillow image, or the path of a file that is there."""
        if isinstance(image, PATHS):
            path = expand_user(image)
            if not path.is_file():
                name = path if str(image) else repr(image)
                raise NotFound(f"expected an image file, found no file {name}: check the path")
            return path
        if 0 in image.size:
            raise UserError(f"{self._expected}, got a Pillow image without pixels")
        return image

    def _check_dtype(self, array):
        if array.dtype == np.uint8 or jnp.issubdtype(array.dtype, jnp.floating):
            return
        if array.dtype.kind in _NOT_NUMBERS:
            raise UserError(
                f"{self._expected}, or a list of Pillow images or paths, got "
                f"{_NOT_NUMBERS[array.dtype.kind]}"
                f": pass paths as a list"
            )
        is_like_images = array.shape[-1:] == (3,) or array.ndim > min(self._sides) + 1
        raise UserError(
            f"{self._expected} of uint8, or float in [-1, 1], got {array.dtype} "
            f"{tuple(array.shape)}: "
            f"{'convert them to uint8' if is_like_images else 'if they are ids, pass ids=...'}"
        )

    def _check_resizable(self):
        if self.size is None:
            raise UserError(
                f"{self._expected}, got Pillow images or paths, and no size to resize them to: "
                f"load with image_size=..."
            )
        if len(self.size) != 2:
            raise UserError(f"{self._expected}, got Pillow images: pass an array of the frames")

    def _resized(self, image):
        image = read_image(image) if isinstance(image, pathlib.Path) else image
        return RESIZES[self.resize](image, self.size)

    def _check_shape(self, shape):
        if len(shape) - 2 in self._sides and shape[0] > 0 and shape[-1] == 3:
            if self.size is None:
                self.vq.grid_of(*shape[1:-1])
                return
            if shape[1:-1] == self.size:
                return
        raise UserError(f"{self._expected}, got {tuple(shape)}: {self._advice(shape)}")

    def _advice(self, shape):
        """Returns advice on an array of another shape."""
        sides, count = self._sides, len(shape) - 2
        if count not in sides and count + 1 in sides and shape[-1] == 3:
            return "add a batch axis with images[None]"
        if count == 3 and sides == (2,) and shape[0] > 0 and shape[-1] == 3:
            return self._advice_on_videos()
        if count not in sides or 0 in shape:
            return f"pass a batch of RGB {' or '.join(_KINDS[n][0] for n in sides)}"
        if shape[-1] != 3 and 3 in (before := shape[1:count]):
            channels = 1 + before.index(3)
            axes = (*(axis for axis in range(len(shape)) if axis != channels), channels)
            return f"move the channels last with images.transpose{axes}"
        if shape[-1] != 3:
            return "convert them to RGB"
        return f"resize them, or load with image_size={simplest(shape[1:-1])}"

    def _advice_on_videos(self):
        frames = "pass frames as images, with videos.reshape(-1, *videos.shape[2:])"
        if 3 in sides_taken(self.vq):
            return f"{frames}, or load the VQ tokenizer alone and without image_size"
        return f"it takes no videos; {frames}"


@dataclasses.dataclass(frozen=True)
class Ids:
    """Integer ids: of a VQ tokenizer, or of texts.

    Attributes:
        shape: the shape of one row; a number that may be any is None.
        sizes: how many values an id may have: one number, or one for each along the last axis.
        kind: a noun for messages about shapes and types.
        remedy: the advice in messages about values.
    """

    shape: tuple[int | None, ...]
    sizes: tuple[int, ...]
    kind: str = "integer ids"
    remedy: str = ""

    @classmethod
    def of(cls, vq: VQConfig, grid: tuple[int, ...] | None) -> "Ids":
        """Returns the ids that a VQ tokenizer gives, of images with this grid, or with any."""
        shape = (None, *ids_shape(vq, (1,))[1:]) if grid is None else ids_shape(vq, grid)
        return cls(shape, tuple(vq.codebook_sizes), remedy=": they come from another codebook")

    def check(self, ids: Any) -> Any:
        if isinstance(ids, list | tuple) and not ids:
            raise UserError(f"expected {self.kind} [b, {self._row}], got none: pass at least one")
        array = _as_array(ids, f"{self.kind} [b, {self._row}]")
        is_fitting = array.ndim == len(self.shape) + 1 and all(
            expected in (None, got)
            for expected, got in zip(self.shape, array.shape[1:], strict=True)
        )
        if not is_fitting or not jnp.issubdtype(array.dtype, jnp.integer):
            is_single = array.ndim == len(self.shape)
            raise UserError(
                f"expected {self.kind} [b, {self._row}], got {array.dtype} {tuple(array.shape)}"
                f"{': add a batch axis with ids[None]' if is_single else ''}"
            )
        if 0 in array.shape:  # compilers divide by it
            raise UserError(
                f"expected {self.kind} [b, {self._row}], got none, {tuple(array.shape)}: pass at "
                f"least one"
            )
        if not isinstance(array, jax.Array):
            self.check_values(array)
        return array

    def check_values(self, array: np.ndarray) -> None:
        columns = [array] if len(self.sizes) == 1 else np.moveaxis(array, -1, 0)
        for column, size in zip(columns, self.sizes, strict=True):
            if column.min() < 0 or column.max() >= size:
                raise UserError(
                    f"expected {self.kind.removeprefix('integer ')} in [0, {size}), got "
                    f"{column.min()} to {column.max()}{self.remedy}"
                )

    def prepare(self, ids: Any) -> Any:
        return ids.astype(np.int32, copy=False)

    @property
    def _row(self):
        return ", ".join("n" if n is None else str(n) for n in self.shape)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Float vectors, such as code vectors.

    Attributes:
        shape: the shape of one row.
        name: a noun for messages.
    """

    shape: tuple[int, ...]
    name: str

    def check(self, vectors: Any) -> Any:
        expected = f"{self.name} [b, {', '.join(map(str, self.shape))}] of floats"
        array = _as_array(vectors, expected)
        is_fitting = array.ndim == len(self.shape) + 1 and array.shape[1:] == self.shape
        if not is_fitting or not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"expected {expected}, got {array.dtype} {tuple(array.shape)}")
        return array

    def check_values(self, array: np.ndarray) -> None:
        """Checks nothing: vectors may have any values."""

    def prepare(self, vectors: Any) -> Any:
        return vectors.astype(np.float32, copy=False)


def _as_array(value, expected):
    """An array as it is, and what else numpy makes one of."""
    try:
        return value if isinstance(value, jax.Array) else np.asarray(value)
    except ValueError:
        raise UserError(f"expected {expected}, got rows of several lengths") from None
