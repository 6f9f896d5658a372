"""The images that the page looks at: spread over a source, and encoded."""

import dataclasses
from collections.abc import Mapping
from typing import Any, SupportsIndex

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float, Int, UInt8

from toklip_jax.api import Tokenizer
from toklip_jax.core.errors import UserError
from toklip_jax.data import pipeline
from toklip_jax.data.images import DEFAULT_RESIZE, Decode
from toklip_jax.data.sources import ENCODED, Source, SourceConfig

NUM_IMAGES = 8  # shown large
NUM_SEARCHED = 1000  # among which neighbours are looked for
NUM_SEARCHED_SLOWLY = 64  # the same, of large images on a CPU
THUMBNAIL = 96  # pixels
MAX_NAME = 60  # letters
SMALL = 128  # images up to this many pixels are encoded in larger batches


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images spread evenly over a source, encoded.

    Attributes:
        thumbnails: RGB, of at most THUMBNAIL pixels.
        titles: the name of what each shows, or "" where that isn't known.
        ids: the ids of each image.
        features: normalised.
        rows: their places in the source.
    """

    thumbnails: UInt8[np.ndarray, "m h w 3"]
    titles: list[str]
    ids: Int[np.ndarray, "m n *q"]
    features: Float[np.ndarray, "m d"]
    rows: Int[np.ndarray, " m"]

    def name(self, place: SupportsIndex) -> str:
        """Returns an image's title, shortened, or its row."""
        title = self.titles[place] or f"image {self.rows[place]}"
        return title if len(title) <= MAX_NAME else title[: MAX_NAME - 1].rstrip() + "…"


@dataclasses.dataclass(frozen=True)
class PoolImages:
    """A pool, and those of its images that are shown large.

    Attributes:
        pool: all images.
        picks: places in the pool.
        images: at `picks`, as they are.
        vocabulary: the source's names for its images, else their captions.
        source_size: number of images in the source.
        attribution: whom the images are owed to, or "".
    """

    pool: Pool
    picks: Int[np.ndarray, " k"]
    images: UInt8[np.ndarray, "k h w 3"]
    vocabulary: tuple[str, ...]
    source_size: int
    attribution: str


def encode_pool(
    toklip: Tokenizer,
    source_config: Mapping[str, Any] | SourceConfig,
    *,
    resize: str = DEFAULT_RESIZE,
    exif_orientation: bool = False,
    num_images: int = NUM_IMAGES,
    num_searched: int = 0,
) -> PoolImages:
    """Reads and encodes images that are spread evenly over a source.

    Args:
        resize: how encoded images are resized, of `data.images.RESIZES`.
        exif_orientation: see `data.images.Decode`.
        num_images: shown large.
        num_searched: size of the pool; 0 for NUM_SEARCHED, or fewer on a CPU.

    Raises:
        ValueError: the source can't be opened, or its images are of another size.
    """
    if isinstance(source_config, Mapping):
        source_config = SourceConfig.from_plain(source_config, "report.source")
    source, vision = source_config.open(), toklip.config.vision
    if not num_searched:
        is_slow = jax.default_backend() == "cpu" and max(vision.size) > SMALL
        num_searched = NUM_SEARCHED_SLOWLY if is_slow else NUM_SEARCHED
    rows = _spread(len(source), num_searched)
    large = set(rows[_spread(len(rows), num_images)].tolist())
    is_encoded = source_config.gives == ENCODED
    transform = None
    if is_encoded:
        transform = Decode(
            vision.image_size,
            is_training=False,
            resize=resize,
            has_labels=bool(getattr(source, "classes", ())),
            exif_orientation=exif_orientation,
        )
    some = _Rows(source, rows)
    pool, kept = _encode(toklip, some, transform, large)
    vocabulary = getattr(source, "names", ()) or getattr(source, "classes", ())
    return PoolImages(
        pool=pool,
        picks=np.flatnonzero(np.isin(pool.rows, sorted(large))),
        images=np.stack(kept),
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
        """Returns what the image at `place` of a batch shows.

        The source's own title, else a caption, a class, or the file's name.
        """
        classes = getattr(self.source, "classes", ())
        if hasattr(self.source, "title"):
            return self.source.title(row)
        if row in self.captions:
            return self.captions[row]
        if classes and "labels" in batch:
            return str(classes[batch["labels"][place]])
        return batch["keys"][place] if "keys" in batch else ""


def _encode(toklip, some, transform, large):
    """The pool, and its images of the rows `large`; images that can't be read are left out."""
    batch_size = min(len(some), 64 if max(toklip.config.vision.size) <= SMALL else 8)
    parts, kept, titles = [], [], []
    batches = pipeline.evaluation_batches(some, batch_size, transform)
    for number, batch in enumerate(batches):
        if "images" not in batch:
            raise UserError(f"expected a source of images, got {sorted(batch)}: name another one")
        images, good = batch["images"], np.flatnonzero(batch["mask"])
        rows = some.rows[number * batch_size + good]
        places = list(zip(rows.tolist(), good.tolist(), strict=True))
        titles += [some.title(row, batch, place) for row, place in places]
        kept += [images[place] for row, place in places if row in large]
        ids = toklip.tokenize(images)
        thumbnails = np.stack([_thumbnail(image) for image in images])
        encoded = (thumbnails, ids, toklip.image_features(ids=ids))
        parts.append((rows, *(np.asarray(array)[good] for array in encoded)))
    if not kept:
        raise UserError("expected images that can be read, found none")
    rows, thumbnails, ids, features = map(np.concatenate, zip(*parts, strict=True))
    return Pool(thumbnails, titles, ids, features, rows), kept


def _thumbnail(image):
    longest = max(image.shape[:2])
    if longest <= THUMBNAIL:
        return image
    height, width = (max(1, round(side * THUMBNAIL / longest)) for side in image.shape[:2])
    small = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BOX)
    return np.asarray(small)


def _spread(total: int, count: int) -> Int[np.ndarray, " k"]:
    """At most `count` places, evenly over `total`."""
    count = min(total, count)
    return np.floor((np.arange(count) + 0.5) * total / count).astype(np.int64)
