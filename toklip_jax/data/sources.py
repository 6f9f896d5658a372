"""What a config's data section may name; a new kind is a function and a line in `SOURCES`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from toklip_jax.core.fields import check_name
from toklip_jax.data.array_record import ArrayRecordSource
from toklip_jax.data.cache import CacheSource
from toklip_jax.data.image_folder import ImageFolderSource
from toklip_jax.data.karpathy import KarpathySource
from toklip_jax.data.mixture import Mixture
from toklip_jax.data.pipeline import Source
from toklip_jax.data.table import TableSource
from toklip_jax.data.tar_index import Extensions
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.tfds import TfdsSource
from toklip_jax.data.transforms import Sample
from toklip_jax.data.webdataset import WebDatasetSource
from toklip_jax.demo.captions import all_captions, caption_table
from toklip_jax.demo.emoji import EmojiSet, named_split

# Of the styles whose pictures may be shown.
ATTRIBUTIONS = {"Twtr": "Twemoji, © Twitter, Inc and other contributors, CC BY 4.0"}


class ArraySource:
    """Rows of equally long arrays in memory."""

    def __init__(self, **arrays: np.ndarray):
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected arrays of one length, got {lengths}")
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Sample:
        return {name: array[index] for name, array in self.arrays.items()}


class EmojiSource:
    """Samples of `images`, `concept_ids`, `labels`, and `captions` [captions, t] if there are any.

    Attributes:
        classes: names of the groups, which `labels` are places in.
        names: what the split asks for.
        attribution: whom the pictures are owed to, where that is known of all of them.
    """

    def __init__(
        self,
        emoji: EmojiSet,
        captions: Int32[np.ndarray, "concepts captions t"] | None = None,
        names: Sequence[str] = (),
    ):
        self.images, self.concept_ids, self.captions = emoji.images, emoji.concept_ids, captions
        self.labels, self.classes = emoji.group_ids, emoji.groups
        self.names, self._concepts = tuple(names), emoji.concepts
        styles = {emoji.styles[style] for style in np.unique(emoji.style_ids)}
        is_known = styles <= ATTRIBUTIONS.keys()
        self.attribution = "; ".join(ATTRIBUTIONS[s] for s in sorted(styles)) if is_known else ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        concept_id = self.concept_ids[index]
        sample = {"images": self.images[index], "concept_ids": concept_id}
        sample["labels"] = self.labels[index]
        if self.captions is not None:
            sample["captions"] = self.captions[concept_id]
        return sample

    def title(self, index: int) -> str:
        """Returns the name of what a picture shows."""
        return self._concepts[self.concept_ids[index]].name


def build_source(config: Mapping[str, Any], tokenizer: TextTokenizer | None = None) -> Source:
    """Builds the source that a config describes: `kind`, and that kind's own arguments.

    Args:
        tokenizer: for sources with texts; without it their samples have none.

    Raises:
        ValueError: an unknown kind, or an argument that the kind doesn't take; names the nearest.
    """
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    build = SOURCES[check_name("kind", kind, list(SOURCES))]
    parameters = list(inspect.signature(build).parameters)
    for name in arguments:
        check_name(f"argument of {kind}", name, [p for p in parameters if p != "tokenizer"])
    if "tokenizer" in parameters:
        arguments["tokenizer"] = tokenizer
    return build(**arguments)


def is_raw(config: Mapping[str, Any]) -> bool:
    """Says whether a config's samples are records that `decode.Decode` must turn into arrays.

    Raises:
        ValueError: a mixture of both.
    """
    if config["kind"] != "mixture":
        return config["kind"] in RAW
    kinds = {is_raw(part) for part in config["parts"]}
    if len(kinds) > 1:
        raise ValueError(
            f"expected parts of a mixture that are all encoded images ({', '.join(sorted(RAW))}) "
            f"or all arrays, got both: write the arrays as one of these kinds"
        )
    return kinds == {True}


def cache_directories(config: Mapping[str, Any]) -> list[str]:
    """Returns where the caches are that a config's samples come from; none for any other source.

    Raises:
        ValueError: a mixture of caches and others.
    """
    if config["kind"] != "mixture":
        return [config["directory"]] if config["kind"] == "cache" else []
    parts = [cache_directories(part) for part in config["parts"]]
    if any(parts) and not all(parts):
        raise ValueError("expected parts of a mixture that are all caches, or none, got both")
    return [directory for part in parts for directory in part]


def source_texts(config: Mapping[str, Any]) -> list[str] | None:
    """Returns the texts of a source, to train a tokenizer on; None for a kind that has only ids."""
    if config["kind"] not in TEXTS:
        return None
    return TEXTS[config["kind"]](config)


def emoji(
    split: str = "test",
    part: str = "train",
    size: int = 48,
    num_captions: int = 32,
    seed: int = 0,
    *,
    tokenizer: TextTokenizer | None = None,
) -> EmojiSource:
    """The demo's pictures.

    Args:
        split: one of `emoji.SPLITS`.
        part: "train", "test" or "references" of it.
        size: in pixels.
        num_captions: drawn per concept, by `seed`; training picks among them.
    """
    check_name("part", part, ["train", "test", "references"])
    parts = named_split(split, size)
    pictures = getattr(parts, part)
    table = tokenizer and caption_table(pictures.concepts, tokenizer, num_captions, seed)
    return EmojiSource(pictures, table, parts.names)


def synthetic(
    num_samples: int = 64,
    image_size: int = 16,
    context_length: int = 8,
    vocab_size: int = 64,
    num_captions: int = 2,
    num_classes: int = 4,
    seed: int = 0,
    *,
    tokenizer: TextTokenizer | None = None,
) -> ArraySource:
    """Random `images`, and random ids as their `captions`, for tests and speed measurements.

    `labels` count through the classes.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_samples, image_size, image_size, 3), np.uint8)
    shape = (num_samples, num_captions, context_length)
    captions = rng.integers(0, vocab_size, shape, np.int32)
    labels = (np.arange(num_samples) % num_classes).astype(np.int32)
    return ArraySource(images=images, captions=captions, labels=labels)


def webdataset(
    shards: str | Sequence[str],
    image: tuple[str, ...] = Extensions.image,
    text: tuple[str, ...] = Extensions.text,
    label: tuple[str, ...] = Extensions.label,
    index_dir: str | None = None,
) -> WebDatasetSource:
    """Tars as img2dataset writes them.

    Args:
        shards: such as "gs://bucket/cc12m/{00000..00331}.tar", or several.
        image: extensions; `text` and `label` likewise.
        index_dir: where indexes are kept; None for beside the shards, or the user's cache.
    """
    return WebDatasetSource(shards, Extensions(tuple(image), tuple(text), tuple(label)), index_dir)


def mixture(
    parts: Sequence[Mapping[str, Any]], *, tokenizer: TextTokenizer | None = None
) -> Mixture:
    """Several sources: configs like any other, each with a `weight` beside."""
    weights, built = [], []
    for part in map(dict, parts):
        if "weight" not in part:
            raise ValueError(f"expected a weight in each part of a mixture, got {part}")
        weights.append(float(part.pop("weight")))
        built.append(build_source(part, tokenizer))
    return Mixture(built, weights)


SOURCES: dict[str, Callable[..., Source]] = {
    "array_record": ArrayRecordSource,
    "cache": CacheSource,
    "emoji": emoji,
    "image_folder": ImageFolderSource,
    "karpathy": KarpathySource,
    "mixture": mixture,
    "synthetic": synthetic,
    "table": TableSource,
    "tfds": TfdsSource,
    "webdataset": webdataset,
}

# Kinds whose samples are records of an encoded `image`, a `text` and a `label`.
RAW = frozenset({"array_record", "image_folder", "karpathy", "table", "tfds", "webdataset"})


TEXTS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "emoji": lambda config: all_captions(
        named_split(config["split"], config["size"]).train.concepts
    ),
}
