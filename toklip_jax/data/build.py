"""From a config's source to batches: the source, the transform that fits it, and the pipeline."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from toklip_jax.core.fields import from_fields
from toklip_jax.data import pipeline
from toklip_jax.data.health import Problem
from toklip_jax.data.images import Decode, ShiftAndScale
from toklip_jax.data.pipeline import Batch
from toklip_jax.data.sources import (
    PickCrop,
    Source,
    build_source,
    cache_directories,
    is_raw,
    source_texts,
)
from toklip_jax.data.text import TOKENIZER_FILE, TextTokenizer, train_tokenizer
from toklip_jax.data.transforms import Chain, PickCaption, Transform

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataBatches:
    """Batches of a source that is read at the first use.

    Call it with a step for the training batches from there on.
    """

    config: Mapping[str, Any]
    transform: Transform | None
    batch_size: int
    seed: int = 0
    tokenizer: TextTokenizer | None = None
    num_workers: int = 0
    host: int = 0
    hosts: int = 1

    def __call__(self, start_step: int) -> Iterator[Batch]:
        return pipeline.batches(
            self.source,
            self.transform,
            self.batch_size,
            self.seed,
            start_step,
            self.num_workers,
            self.host,
            self.hosts,
        )

    @functools.cached_property
    def source(self) -> Source:
        source = build_source(self.config, self.tokenizer)
        problems = getattr(source, "problems", [])
        for key, cause in problems:
            logger.warning("left out %s: %s", key, cause)
        return source

    @property
    def problems(self) -> list[Problem]:
        """What was found broken when the source was opened."""
        return list(getattr(self.source, "problems", []))


def training_batches(
    config: Mapping[str, Any],
    image_size: int,
    tokenizer: TextTokenizer | None,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    has_text: bool = True,
    augment: Mapping[str, Any] | None = None,
) -> DataBatches:
    """Returns what gives the training batches from any step on; see `pipeline.batches`.

    Args:
        config: of the source, as for `build_source`.
        image_size: of encoded images; arrays keep their size.
        tokenizer: of the captions.
        has_text: whether samples get `token_ids`.
        augment: for encoded images fields of `Decode` (`scale`, `min_side`, `max_pixels`), whose
            defaults are the released recipe; for arrays fields of `ShiftAndScale`, None for none.

    Raises:
        ValueError: encoded images with text but no tokenizer, or a field that doesn't exist.
    """
    tokenizer = tokenizer if has_text else None
    transform = training_transform(config, image_size, tokenizer, has_text, augment or {})
    return DataBatches(config, transform, batch_size, seed, tokenizer, num_workers, host, hosts)


def evaluation_batches(
    config: Mapping[str, Any],
    image_size: int,
    tokenizer: TextTokenizer | None,
    batch_size: int,
    num_workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    start: int = 0,
) -> Iterator[Batch]:
    """Returns the source once, in order, with `mask`; see `pipeline.evaluation_batches`.

    Args:
        tokenizer: of the captions; None for samples without. Drawn sources give all `captions`.
        start: batches to pass over.
    """
    transform = Decode(image_size, False, tokenizer) if is_raw(config) else None
    data = DataBatches(config, transform, batch_size, tokenizer=tokenizer)
    shares = (num_workers, host, hosts, start)
    return pipeline.evaluation_batches(data.source, batch_size, transform, *shares)


def make_tokenizer(
    text: Mapping[str, Any], source: Mapping[str, Any] | None
) -> TextTokenizer | None:
    """Returns the tokenizer that a config's `text` names, or one trained on the source's texts.

    A cache's is the one that it was made with. None where there is neither.
    """
    length = text["context_length"]
    if text["tokenizer"]:
        return TextTokenizer.load(text["tokenizer"], length)
    if source is None:
        return None
    if directories := cache_directories(source):
        return TextTokenizer.load(f"{directories[0]}/{TOKENIZER_FILE}", length)
    if (texts := source_texts(source)) is None:
        return None
    return TextTokenizer(train_tokenizer(texts, text["vocab_size"]), length)


def training_transform(
    config: Mapping[str, Any],
    image_size: int,
    tokenizer: TextTokenizer | None,
    has_text: bool,
    augment: Mapping[str, Any],
) -> Transform:
    """Returns the transform of a source's samples; arguments as for `training_batches`."""
    if is_raw(config):
        if has_text and tokenizer is None:
            raise ValueError(f"expected a tokenizer for the texts of {config['kind']}, got none")
        fixed = {"image_size": image_size, "is_training": True, "tokenizer": tokenizer}
        # A config that went through JSON has lists.
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in augment.items()}
        return from_fields(Decode, fields, "augment", **fixed)
    if cache_directories(config):
        return PickCrop()  # they are what the augmentation left
    transforms: list[Transform] = [PickCaption()] if has_text else []
    if augment:
        transforms.append(from_fields(ShiftAndScale, augment, "augment"))
    return Chain(*transforms)
