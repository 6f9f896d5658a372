"""What a config's data section may name; a new kind is a function and a line in `SOURCES`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from toklip_jax.data.captions import all_captions, caption_table
from toklip_jax.data.emoji import EmojiSet, named_split
from toklip_jax.data.pipeline import Source
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import Sample
from toklip_jax.fields import known


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
    """Samples of `images` and `concept_ids`, with `captions` [captions, t] if there are any."""

    def __init__(
        self, emoji: EmojiSet, captions: Int32[np.ndarray, "concepts captions t"] | None = None
    ):
        self.images, self.concept_ids, self.captions = emoji.images, emoji.concept_ids, captions

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        concept_id = self.concept_ids[index]
        sample = {"images": self.images[index], "concept_ids": concept_id}
        if self.captions is not None:
            sample["captions"] = self.captions[concept_id]
        return sample


def build_source(config: Mapping[str, Any], tokenizer: TextTokenizer | None = None) -> Source:
    """Builds the source that a config describes: `kind`, and that kind's own arguments.

    Args:
        tokenizer: for sources with texts; without it their samples have none.

    Raises:
        ValueError: an unknown kind, or an argument that the kind doesn't take; names the nearest.
    """
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    build = SOURCES[known("kind", kind, list(SOURCES))]
    names = [name for name in inspect.signature(build).parameters if name != "tokenizer"]
    for name in arguments:
        known(f"argument of {kind}", name, names)
    return build(tokenizer=tokenizer, **arguments)


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
    known("part", part, ["train", "test", "references"])
    pictures = getattr(named_split(split, size), part)
    table = tokenizer and caption_table(pictures.concepts, tokenizer, num_captions, seed)
    return EmojiSource(pictures, table)


def synthetic(
    num_samples: int = 64,
    image_size: int = 16,
    context_length: int = 8,
    vocab_size: int = 64,
    num_captions: int = 2,
    seed: int = 0,
    *,
    tokenizer: TextTokenizer | None = None,
) -> ArraySource:
    """Random `images`, and random ids as their `captions`, for tests and speed measurements."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_samples, image_size, image_size, 3), np.uint8)
    shape = (num_samples, num_captions, context_length)
    captions = rng.integers(0, vocab_size, shape, np.int32)
    return ArraySource(images=images, captions=captions)


SOURCES: dict[str, Callable[..., Source]] = {
    "emoji": emoji,
    "synthetic": synthetic,
}


TEXTS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "emoji": lambda config: all_captions(
        named_split(config["split"], config["size"]).train.concepts
    ),
}
