"""The images of conversations as arrays: pixels, or ids in their place.

A loader turns an image, in the form that a conversation has it, into an array of one shape. Its
`name` is the array's in a batch: `images` or `image_ids`.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

from toklip_jax.core.errors import UserError
from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.health import BadSample
from toklip_jax.data.images import Decode, sides_of
from toklip_jax.data.sources import CacheSource, Source
from toklip_jax.data.sources.records import read_image_bytes

WRONG_IDS = "an image of another number of ids"
_DECODED_ALIKE = 0  # seed; whole images take no randomness


@runtime_checkable
class ImageLoader(Protocol):
    """Turns images of conversations into arrays.

    Attributes:
        name: the array's name in a batch.
        shape: the shape of one image's array.
        dtype: its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any

    def __call__(self, image: Any) -> np.ndarray:
        """Returns an image's array.

        Raises:
            BadSample: it can't be read.
        """

    def identity(self) -> Any:
        """Returns plain json data that change when other images stand at the same references."""


class Pixels:
    """Whole images, `images` uint8 [h, w, 3] in RGB, from paths or from a source's rows."""

    name, dtype = "images", np.uint8

    def __init__(
        self,
        image_size: int | tuple[int, ...],
        source: Source | None = None,
        *,
        resize: str = "squash",
        exif_orientation: bool = False,
    ):
        """Chooses how images are read.

        Args:
            image_size: the side of a square in pixels, or (height, width).
            source: the source of encoded images whose rows int images are.
            resize: "squash" takes the whole image at another aspect ratio, as questions may be
                about any part of it; "crop" its centre.
            exif_orientation: see `Decode`.
        """
        self.shape = (*sides_of(image_size), 3)
        self._source = source
        self._decode = Decode(
            image_size, is_training=False, resize=resize, exif_orientation=exif_orientation
        )

    def __call__(self, image: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Returns an image's pixels; see `ImageLoader`."""
        if isinstance(image, str):
            record = {"image": read_image_bytes(image)}
        elif isinstance(image, int) and self._source is not None:
            record = self._source[image]
        else:
            raise UserError(
                f"expected images as paths, or as rows of a source that Pixels was given, got a "
                f"{type(image).__name__}: pass the source, or load ids"
            )
        return self._decode(record, np.random.default_rng(_DECODED_ALIKE))["images"]

    def identity(self) -> Any:
        """Returns the source's fingerprint."""
        return None if self._source is None else data_fingerprint(self._source)


class CachedIds:
    """Ids from a cache, `image_ids` int32 [n] or [n, q]: no image is read or decoded."""

    name, dtype = "image_ids", np.int32

    def __init__(self, source: CacheSource):
        """Takes the first crop of each of a cache's images."""
        self.shape = source.header.ids_shape
        self._source = source

    def __call__(self, image: Any) -> Int32[np.ndarray, "n *q"]:
        """Returns the ids of the cache's row `image`; see `ImageLoader`."""
        if not isinstance(image, int):
            raise UserError(
                f"expected images as rows of the cache, got a {type(image).__name__}: open the "
                f"conversations with images=cached_names(cache, source)"
            )
        return self._source[image]["ids"]

    def identity(self) -> Any:
        """Returns the cache's fingerprint."""
        return data_fingerprint(self._source)


class GivenIds:
    """Ids that the conversations themselves hold, `image_ids` int32 [n]."""

    name, dtype = "image_ids", np.int32

    def __init__(self, num_tokens: int, codebook_size: int):
        """Says what ids are expected.

        Args:
            num_tokens: ids of an image.
            codebook_size: ids are below it.
        """
        self.shape, self._codebook_size = (num_tokens,), codebook_size

    def __call__(self, image: Any) -> Int32[np.ndarray, " n"]:
        """Returns an image's ids; see `ImageLoader`."""
        ids = np.asarray(image)
        if ids.shape != self.shape or not np.issubdtype(ids.dtype, np.integer):
            raise BadSample(WRONG_IDS)
        if ids.min() < 0 or ids.max() >= self._codebook_size:
            raise BadSample("ids outside the codebook")
        return ids.astype(np.int32)

    def identity(self) -> Any:
        """Returns nothing: the conversations' own identity covers their ids."""
        return None


def cached_names(cache: CacheSource, source: Source) -> dict[str, int]:
    """Returns the cache's row of each image's name, for `LlavaSource(images=...)`.

    Args:
        source: what was encoded; its keys are the names.

    Raises:
        ValueError: the source has no names, or another number of images than the cache was made of.
    """
    if not hasattr(source, "key"):
        raise UserError(
            f"expected a source with names, got a {type(source).__name__} without key(index)"
        )
    if len(source) != cache.header.num_samples:
        raise UserError(
            f"expected the source that the cache was made of, of {cache.header.num_samples} "
            f"images, got one of {len(source)}: pass that one, or encode again"
        )
    return {source.key(cache.sample_of(row)): row for row in range(len(cache))}
