"""Turns an encoded record into a sample: decodes and resizes the image, tokenizes the caption."""

import dataclasses
import io
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Int32

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.health import BadSample
from toklip_jax.data.images.formats import open_picture, to_8_bits
from toklip_jax.data.images.resizing import random_resized_crop, shortest_side_crop, squash
from toklip_jax.data.images.sizes import simplest
from toklip_jax.data.labels import label_of
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import Sample

RECIPE_SCALE = (0.9, 1.0)  # of the released recipe's random crop
MAX_TEXT = 2**20  # characters; cleaning takes a minute for some tens of this
# Of whole images. The released evaluation scripts crop, and so does all of this package unless it
# is told otherwise; the released training scripts squash what they validate on.
RESIZES = {"crop": shortest_side_crop, "squash": squash}
DEFAULT_RESIZE = "crop"


@dataclasses.dataclass(frozen=True)
class Decode:
    """Makes `images` uint8 [h, w, 3], `token_ids` int32 [t] and `labels` int32 of a record.

    Training takes a random crop of the image, bicubic; evaluation squashes all of it, or takes its
    centre. Images of any mode are converted to RGB, CMYK too; grey ones of 16 bits, and of floats
    in [0, 1], are scaled to 8 bits, and those of other ranges are bad samples.

    Attributes:
        image_size: the side of a square in pixels, or (height, width).
        is_training: takes random crops; else `resize`.
        tokenizer: the captions' tokenizer; without one there are no `token_ids`, and the text is
            not looked at.
        scale: bounds of the crop's share of the image's area.
        min_side: the smallest side in pixels; anything smaller is a placeholder, such as 1 x 1, and
            a bad sample.
        max_pixels: a larger image is a bad sample, which its header tells before it is decoded.
        resize: one of `RESIZES`, for evaluation.
        has_labels: whether there are `labels`; without, the record's label is not looked at.
        exif_orientation: turns images as their EXIF data say, as cameras mean it. The released
            models saw them as they are stored.
    """

    image_size: int | tuple[int, ...]
    is_training: bool
    tokenizer: TextTokenizer | None = None
    scale: tuple[float, float] = RECIPE_SCALE
    min_side: int = 8
    max_pixels: int = 2**26
    resize: str = DEFAULT_RESIZE
    has_labels: bool = False
    exif_orientation: bool = False

    def __post_init__(self):
        object.__setattr__(self, "image_size", simplest(self.image_size))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"expected a scale within (0, 1], got {self.scale}")
        check_name("resize", self.resize, RESIZES)

    def __call__(self, record: Sample, rng: np.random.Generator) -> Sample:
        """Returns the sample of a record: `image` bytes, `text` str or bytes, `label` in any form.

        Raises:
            BadSample: what is wrong with the image, the text or the label.
        """
        sample: Sample = {}
        if self.tokenizer is not None:  # first, as it is cheap
            sample["token_ids"] = token_ids(record.get("text"), self.tokenizer)
        if self.has_labels:
            sample["labels"] = np.int32(label_of(record.get("label")))
        sample["images"] = self._image(record["image"], rng)
        return sample

    def _image(self, data, rng):
        image = open_image(data, self.min_side, self.max_pixels)
        try:
            image.load()
            if self.exif_orientation:
                image = PIL.ImageOps.exif_transpose(image)
            image = _to_8_bits(image)
            if self.is_training:
                return random_resized_crop(image, self.image_size, self.scale, rng)
            return RESIZES[self.resize](image, self.image_size)
        except (MemoryError, BadSample):
            raise
        except Exception as error:  # Pillow's plugins raise whatever their parsing meets
            is_cut = "truncated" in str(error).lower()
            raise BadSample("truncated image" if is_cut else "undecodable image") from error


def open_image(data: Any, min_side: int, max_pixels: int) -> PIL.Image.Image:
    """Reads an encoded image's header; decodes nothing yet.

    Raises:
        BadSample: there are no bytes, they are no image of `formats.FORMATS`, or its size is out of
            bounds.
    """
    if not data:
        raise BadSample("missing image")
    try:
        image = open_picture(io.BytesIO(data))
    except PIL.Image.DecompressionBombError:
        raise BadSample("too many pixels") from None
    except MemoryError:
        raise
    except Exception:  # UnidentifiedImageError, and what broken headers make of plugins
        raise BadSample("not an image") from None
    if image.width * image.height > max_pixels:
        raise BadSample("too many pixels")
    if min(image.size) < min_side:
        raise BadSample("too small")
    return image


def token_ids(text: Any, tokenizer: TextTokenizer) -> Int32[np.ndarray, " t"]:
    """Returns the ids of one caption.

    Raises:
        BadSample: there is none, or nothing that cleaning leaves; or it isn't UTF-8, or is too long
            to be one, or the tokenizer doesn't know its words.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        if isinstance(text, str):
            text.encode("utf-8")  # json may hold halves of characters
    except UnicodeError:
        raise BadSample("non-UTF-8 text") from None
    if not isinstance(text, str) or not text.strip():
        raise BadSample("missing caption")
    if len(text) > MAX_TEXT:
        raise BadSample("too long a caption")
    try:
        (ids,) = tokenizer([text])
    except UserError:
        raise BadSample("a caption that the tokenizer can't encode") from None
    if tokenizer.is_empty(ids):
        raise BadSample("missing caption")
    return ids


def _to_8_bits(image):
    try:
        return to_8_bits(image)
    except ValueError:
        raise BadSample("values of unknown range: convert it to 8 bits") from None
