"""The images that the page shows large, and what the model makes of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from toklip_jax.api import Tokenizer
from toklip_jax.core.errors import UserError
from toklip_jax.data.images import DEFAULT_RESIZE
from toklip_jax.data.sources import SourceConfig
from toklip_jax.evaluation.retrieval import nearest_keys
from toklip_jax.report.pool import NUM_IMAGES, Pool, encode_pool


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Some images of a pool in full.

    Attributes:
        pool: the pool that they are from.
        picks: their places in it.
        grid: (height, width) of their ids.
        images: the images themselves.
        restored: from their ids, in [-1, 1].
        token_features: normalised features of every token alone, in the space of texts.
        code_vectors: the code vectors of their ids.
        vocabulary: the source's names for its images.
        source_size: number of images in the source.
        attribution: whom the images are owed to, or "".
    """

    pool: Pool
    picks: Int[np.ndarray, " k"]
    grid: tuple[int, int]
    images: UInt8[np.ndarray, "k h w 3"]
    restored: Float[np.ndarray, "k h w 3"]
    token_features: Float[np.ndarray, "k n d"]
    code_vectors: Float[np.ndarray, "k n c"]
    vocabulary: tuple[str, ...]
    source_size: int
    attribution: str = ""

    @property
    def titles(self) -> list[str]:
        return [self.pool.titles[pick] for pick in self.picks]

    @property
    def names(self) -> list[str]:
        return [self.pool.name(pick) for pick in self.picks]

    @property
    def among(self) -> str:
        """A description of the images that are searched."""
        if len(self.pool.titles) == self.source_size:
            return f"among the {self.source_size:,} images of the source"
        return (
            f"among {len(self.pool.titles):,} images, evenly spread over the source's "
            f"{self.source_size:,}"
        )

    @property
    def ids(self) -> Int[np.ndarray, "k n *q"]:
        return self.pool.ids[self.picks]

    def neighbours(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places in the pool and cosines, [k, count], of each image's nearest others."""
        count = min(count, len(self.pool.titles) - 1)
        places, scores = nearest_keys(self.pool.features[self.picks], self.pool.features, count + 1)
        is_other = places != self.picks[:, None]
        # Where equal ones rank before it, an image isn't among its own: then the last one goes.
        is_other[is_other.all(axis=1), -1] = False
        shape = (len(places), count)
        return places[is_other].reshape(shape), scores[is_other].reshape(shape)


def make_gallery(
    toklip: Tokenizer,
    source_config: Mapping[str, Any] | SourceConfig,
    resize: str = DEFAULT_RESIZE,
    num_images: int = NUM_IMAGES,
    num_searched: int = 0,
    exif_orientation: bool = False,
) -> Gallery:
    """Reads and encodes images that are spread evenly over a source; arguments as `encode_pool`'s.

    Raises:
        ValueError: the source can't be opened, its images are of another size, or the model takes
            videos.
    """
    vision = toklip.config.vision
    if len(vision.grid) != 2:
        size = " by ".join(map(str, vision.size))
        raise UserError(f"the model takes videos ({size}), and this page shows images only")
    found = encode_pool(
        toklip,
        source_config,
        resize=resize,
        exif_orientation=exif_orientation,
        num_images=num_images,
        num_searched=num_searched,
    )
    ids = found.pool.ids[found.picks]
    return Gallery(
        pool=found.pool,
        picks=found.picks,
        grid=vision.grid,
        images=found.images,
        restored=np.asarray(toklip.detokenize(ids), np.float32),
        token_features=np.asarray(toklip.token_features(ids)),
        code_vectors=np.asarray(toklip.code_vectors(ids)),
        vocabulary=found.vocabulary,
        source_size=found.source_size,
        attribution=found.attribution,
    )
