"""The page's images, and what the model makes of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, SupportsIndex

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float, Int, UInt8

from toklip_jax.api import Tokenizer
from toklip_jax.data import pipeline
from toklip_jax.data.images import Decode
from toklip_jax.data.sources import Source, build_source, is_raw
from toklip_jax.evaluation.retrieval import nearest_keys

NUM_IMAGES = 8  # shown large
NUM_SEARCHED = 1000  # where neighbours are looked for
NUM_SEARCHED_SLOWLY = 64  # the same, of large images on a CPU
NUM_NEIGHBOURS = 6
THUMBNAIL = 96  # pixels
MAX_NAME = 60  # letters
SMALL = 128  # images up to this many pixels are encoded in larger batches


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images spread evenly over a source, encoded.

    Attributes:
        thumbnails: RGB, of at most THUMBNAIL pixels.
        titles: what is in each, or "" where that isn't known.
        ids: of each image's tokens.
        features: normalised.
        rows: their places in the source.
    """

    thumbnails: UInt8[np.ndarray, "m s s 3"]
    titles: list[str]
    ids: Int[np.ndarray, "m n"]
    features: Float[np.ndarray, "m d"]
    rows: Int[np.ndarray, " m"]

    def name(self, place: SupportsIndex) -> str:
        """Returns an image's title, shortened, or its row."""
        title = self.titles[place] or f"image {self.rows[place]}"
        return title if len(title) <= MAX_NAME else title[: MAX_NAME - 1].rstrip() + "…"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Some images of a pool in full.

    Attributes:
        pool: that they are from.
        picks: their places in it.
        images: as they are.
        restored: from their ids, in [-1, 1].
        token_features: of every token alone, normalised, in the space of texts.
        code_vectors: of their ids, as the codebook has them.
        vocabulary: names that the source has for its images.
        source_size: number of images in the source.
        attribution: whom the images are owed to, or "".
    """

    pool: Pool
    picks: Int[np.ndarray, " k"]
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
        """What is searched, in words."""
        if len(self.pool.titles) == self.source_size:
            return f"among the {self.source_size:,} images of the source"
        return (
            f"among {len(self.pool.titles):,} images that lie evenly over the source's "
            f"{self.source_size:,}"
        )

    @property
    def ids(self) -> Int[np.ndarray, "k n"]:
        return self.pool.ids[self.picks]

    def neighbours(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places in the pool and cosines, [k, count], of each image's nearest others."""
        count = min(count, len(self.pool.titles) - 1)
        places, scores = nearest_keys(self.pool.features[self.picks], self.pool.features, count + 1)
        is_other = places != self.picks[:, None]
        # One that ranks behind as many equal ones is not among them: then the last one goes.
        is_other[is_other.all(axis=1), -1] = False
        shape = (len(places), count)
        return places[is_other].reshape(shape), scores[is_other].reshape(shape)


def make_gallery(
    toklip: Tokenizer,
    source_config: Mapping[str, Any],
    resize: str = "squash",
    num_images: int = NUM_IMAGES,
    num_searched: int = 0,
) -> Gallery:
    """Reads and encodes images that lie evenly over a source.

    Args:
        resize: of `data.decode.RESIZES`; of encoded images.
        num_images: shown large.
        num_searched: where neighbours are looked for; 0 for NUM_SEARCHED, or fewer on a CPU.

    Raises:
        ValueError: the source can't be built, or its images are of another size.
    """
    source = build_source(source_config)
    size = toklip.config.vision.image_size
    if not num_searched:
        is_slow = jax.default_backend() == "cpu" and size > SMALL
        num_searched = NUM_SEARCHED_SLOWLY if is_slow else NUM_SEARCHED
    rows = _spread(len(source), num_searched)
    shown = set(rows[_spread(len(rows), num_images)].tolist())
    transform = Decode(size, False, resize=resize) if is_raw(source_config) else None
    some = _Rows(source, rows)
    pool, kept = _encode(toklip, some, transform, shown)
    vocabulary = getattr(source, "names", ()) or getattr(source, "classes", ())
    picks = np.flatnonzero(np.isin(pool.rows, sorted(shown)))
    ids = pool.ids[picks]
    return Gallery(
        pool=pool,
        picks=picks,
        images=np.stack(kept),
        restored=np.asarray(toklip.detokenize(ids)),
        token_features=np.asarray(toklip.token_features(ids)),
        code_vectors=np.asarray(toklip.code_vectors(ids)),
        vocabulary=tuple(vocabulary or some.captions.values()),
        source_size=len(source),
        attribution=getattr(source, "attribution", ""),
    )


class _Rows:
    """Some rows of a source; keeps the captions of those that were read."""

    def __init__(self, source: Source, rows: np.ndarray):
        self.source, self.rows = source, rows
        self.captions: dict[int, str] = {}
        if hasattr(source, "key"):
            self.key = lambda index: source.key(int(rows[index]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        sample = self.source[row]
        if text := sample.get("text"):
            text = text.decode(errors="replace") if isinstance(text, bytes) else text
            self.captions[row] = " ".join(text.split())
        return sample

    def title(self, row: int, batch: dict[str, Any], place: int) -> str:
        """What the image at `place` of a batch shows: the source's word, else a caption, a class,
        or its file."""
        classes = getattr(self.source, "classes", ())
        if hasattr(self.source, "title"):
            return self.source.title(row)
        if row in self.captions:
            return self.captions[row]
        if classes and "labels" in batch:
            return str(classes[batch["labels"][place]])
        return batch["keys"][place] if "keys" in batch else ""


def _encode(toklip, some, transform, shown):
    """The pool, and its images of the rows `shown`; images that can't be read are left out."""
    batch_size = min(len(some), 64 if toklip.config.vision.image_size <= SMALL else 8)
    parts, kept, titles = [], [], []
    batches = pipeline.evaluation_batches(some, batch_size, transform)
    for number, batch in enumerate(batches):
        images, good = batch["images"], np.flatnonzero(batch["mask"])
        rows = some.rows[number * batch_size + good]
        places = list(zip(rows.tolist(), good.tolist(), strict=True))
        titles += [some.title(row, batch, place) for row, place in places]
        kept += [images[place] for row, place in places if row in shown]
        ids = toklip.tokenize(images)
        thumbnails = np.stack([_thumbnail(image) for image in images])
        encoded = (thumbnails, ids, toklip.image_features(ids=ids))
        parts.append((rows, *(np.asarray(array)[good] for array in encoded)))
    if not kept:
        raise ValueError("expected images that can be read, found none")
    rows, thumbnails, ids, features = map(np.concatenate, zip(*parts, strict=True))
    return Pool(thumbnails, titles, ids, features, rows), kept


def _thumbnail(image):
    if max(image.shape[:2]) <= THUMBNAIL:
        return image
    size = (THUMBNAIL, THUMBNAIL)
    return np.asarray(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX))


def _spread(total: int, count: int) -> Int[np.ndarray, " k"]:
    """At most `count` places, evenly over `total`."""
    count = min(total, count)
    return np.floor((np.arange(count) + 0.5) * total / count).astype(np.int64)
