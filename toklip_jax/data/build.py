"""Builds batches from a config's source: opens it, and picks the transform that fits it."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import from_fields
from toklip_jax.data import pipeline
from toklip_jax.data.config import TextDataConfig
from toklip_jax.data.health import Problem, name_left_out
from toklip_jax.data.images import DEFAULT_RESIZE, Decode, ShiftAndScale
from toklip_jax.data.pipeline import Batch
from toklip_jax.data.sources import ENCODED, IDS, PickCrop, Source, SourceConfig
from toklip_jax.data.text import TOKENIZER_FILE, TextTokenizer, train_tokenizer
from toklip_jax.data.transforms import Chain, PickCaption, Transform


@dataclasses.dataclass(frozen=True)
class Batching:
    """The settings for reading batches.

    Attributes:
        batch_size: samples in a batch, all hosts together.
        image_size: the size that encoded images are resized to, the side of a square or (height,
            width); arrays keep their size.
        num_workers: processes that read; 0 reads in this one.
        exif_orientation: see `Decode`.
        host: this one of `hosts`; it gets its rows of each batch.
    """

    batch_size: int
    image_size: int | tuple[int, ...] = 0
    num_workers: int = 0
    exif_orientation: bool = False
    host: int = 0
    hosts: int = 1


@dataclasses.dataclass(frozen=True)
class DataBatches:
    """Gives the training batches from any step on, when called with that step.

    The source is opened at the first use.
    """

    config: SourceConfig
    transform: Transform | None
    batching: Batching
    seed: int = 0
    tokenizer: TextTokenizer | None = None

    def __call__(self, start_step: int) -> Iterator[Batch]:
        batching = self.batching
        return pipeline.batches(
            self.source,
            self.transform,
            batching.batch_size,
            seed=self.seed,
            start_step=start_step,
            num_workers=batching.num_workers,
            host=batching.host,
            hosts=batching.hosts,
        )

    @functools.cached_property
    def source(self) -> Source:
        source = self.config.open(self.tokenizer)
        name_left_out(source)
        return source

    @property
    def num_samples(self) -> int:
        """The samples of the source."""
        return len(self.source)

    @property
    def problems(self) -> list[Problem]:
        """The problems found when the source was opened."""
        return list(getattr(self.source, "problems", []))


def training_batches(
    source: SourceConfig,
    batching: Batching,
    *,
    tokenizer: TextTokenizer | None = None,
    has_text: bool = True,
    has_labels: bool = False,
    seed: int = 0,
    augment: Mapping[str, Any] | None = None,
) -> DataBatches:
    """Returns the training batches from any step on; see `DataBatches` and `pipeline.batches`.

    Args:
        tokenizer: the tokenizer for the captions.
        has_text: whether samples get `token_ids`.
        has_labels: whether samples of encoded images get `labels`; those without one are bad then.
        augment: changes to encoded images, fields of `Decode` (`scale`, `min_side`, `max_pixels`),
            whose defaults are the released recipe; for arrays, fields of `ShiftAndScale`; None for
            none.

    Raises:
        ValueError: encoded images with text need a tokenizer, or a field doesn't exist.
    """
    tokenizer = tokenizer if has_text else None
    transform = training_transform(
        source,
        batching.image_size,
        tokenizer=tokenizer,
        has_text=has_text,
        augment=augment or {},
        has_labels=has_labels,
        exif_orientation=batching.exif_orientation,
    )
    return DataBatches(source, transform, batching, seed, tokenizer)


def evaluation_batches(
    source: SourceConfig,
    batching: Batching,
    *,
    tokenizer: TextTokenizer | None = None,
    has_labels: bool = False,
    resize: str = DEFAULT_RESIZE,
    start: int = 0,
) -> Iterator[Batch]:
    """Returns the source once, in order, with `mask`; see `pipeline.evaluation_batches`.

    Args:
        tokenizer: the tokenizer for the captions; None for samples without. Sources of arrays give
            all their `captions`.
        has_labels: see `training_batches`.
        resize: how encoded images are resized, one of `images.RESIZES`.
        start: batches to leave out.
    """
    is_encoded = source.gives == ENCODED
    transform = None
    if is_encoded:
        transform = Decode(
            batching.image_size,
            is_training=False,
            tokenizer=tokenizer,
            resize=resize,
            has_labels=has_labels,
            exif_orientation=batching.exif_orientation,
        )
    data = DataBatches(source, transform, batching, tokenizer=tokenizer)
    return pipeline.evaluation_batches(
        data.source,
        batching.batch_size,
        transform,
        num_workers=batching.num_workers,
        host=batching.host,
        hosts=batching.hosts,
        start=start,
    )


def make_tokenizer(
    text: TextDataConfig, source: SourceConfig | None, context_length: int = 1
) -> TextTokenizer | None:
    """Returns the tokenizer that a config's `text` names, or one trained on the source's texts.

    Of a cache, it is the one that the cache was made with. None if there is neither.

    Args:
        context_length: the length of its texts where `text` leaves that to the model; a file
            doesn't hold it.
    """
    length = text.context_length or context_length
    if text.tokenizer:
        return TextTokenizer.load(text.tokenizer, length)
    if source is None:
        return None
    if directories := source.cache_directories:
        return TextTokenizer.load(f"{directories[0]}/{TOKENIZER_FILE}", length)
    if (texts := source.texts()) is None:
        return None
    return TextTokenizer(train_tokenizer(texts, text.vocab_size), length)


def check_augment(source: SourceConfig, augment: Mapping[str, Any], where: str) -> None:
    """Checks the augmentation of a source's samples without opening it.

    Raises:
        ValueError: a field that the transform doesn't have, or a value that it refuses.
    """
    if source.gives == ENCODED:
        from_fields(Decode, augment, where, **_fixed(1, None))
    elif source.gives != IDS:
        from_fields(ShiftAndScale, augment, where)


def training_transform(
    source: SourceConfig,
    image_size: int | tuple[int, ...],
    *,
    tokenizer: TextTokenizer | None,
    has_text: bool,
    augment: Mapping[str, Any],
    has_labels: bool = False,
    exif_orientation: bool = False,
    where: str = "augment",
) -> Transform:
    """Returns the transform of a source's samples; arguments as for `training_batches`.

    Args:
        where: the place of `augment` in the config, for messages.
    """
    if source.gives == ENCODED:
        if has_text and tokenizer is None:
            raise UserError(f"expected a tokenizer for the texts of {source.kind}, got none")
        fixed = _fixed(image_size, tokenizer, has_labels, exif_orientation)
        return from_fields(Decode, augment, where, **fixed)
    if source.gives == IDS:
        return PickCrop()  # the augmentation was applied before they were encoded
    transforms: list[Transform] = [PickCaption()] if has_text else []
    if augment:
        transforms.append(from_fields(ShiftAndScale, augment, where))
    return Chain(*transforms)


def _fixed(image_size, tokenizer, has_labels=False, exif_orientation=False) -> dict[str, Any]:
    """The fields of `Decode` that no config's `augment` may have."""
    return {
        "image_size": image_size,
        "is_training": True,
        "tokenizer": tokenizer,
        "has_labels": has_labels,
        "exif_orientation": exif_orientation,
    }
