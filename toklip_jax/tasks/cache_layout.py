"""What an objective says of the caches that its frozen models make."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.models.registry import VQConfig


@dataclasses.dataclass(frozen=True)
class CacheLayout:
    """The sizes of what a cache holds.

    Attributes:
        vq: the config of the VQ tokenizer that the ids are of.
        image_size: the size of the images: the side of a square, or all sides.
        grid: places that ids stand at.
        vocab_size: of the text tokenizer; 0 where no texts are read.
        widths: the lengths of the features that may be stored, by name.
    """

    vq: VQConfig
    image_size: int | tuple[int, ...]
    grid: tuple[int, ...]
    vocab_size: int = 0
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)


def map_crops(function: Callable[[Any], Any], rows: jax.Array) -> Any:
    """Applies a function of [b, ...] to [b, crops, ...], one crop after another."""
    made = jax.lax.map(function, jnp.moveaxis(rows, 1, 0))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), made)
