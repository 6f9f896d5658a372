"""Images on the host: decoding, resizing, augmentation."""

from toklip_jax.data.images.decode import (
    DEFAULT_RESIZE,
    RECIPE_SCALE,
    RESIZES,
    Decode,
    open_image,
    token_ids,
)
from toklip_jax.data.images.formats import FORMATS, open_picture, to_8_bits
from toklip_jax.data.images.resizing import (
    random_resized_crop,
    read_image,
    shortest_side_crop,
    squash,
)
from toklip_jax.data.images.sizes import Size, sides_of, simplest
from toklip_jax.data.images.transforms import ShiftAndScale, shift_and_scale

__all__ = [
    "DEFAULT_RESIZE",
    "FORMATS",
    "RECIPE_SCALE",
    "RESIZES",
    "Decode",
    "ShiftAndScale",
    "Size",
    "open_image",
    "open_picture",
    "random_resized_crop",
    "read_image",
    "shift_and_scale",
    "shortest_side_crop",
    "sides_of",
    "simplest",
    "squash",
    "to_8_bits",
    "token_ids",
]
