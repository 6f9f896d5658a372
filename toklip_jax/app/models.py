"""The models behind the page, and which of them speak of the same ids."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from toklip_jax.api import Generator, MultimodalModel, Tokenizer, VQTokenizer, load
from toklip_jax.core.errors import UserError
from toklip_jax.models.base import VQConfig, ids_shape
from toklip_jax.models.generator.config import vq_of
from toklip_jax.models.multimodal.config import PIXELS


@dataclasses.dataclass(frozen=True)
class Models:
    """What the page shows: a tokenizer, and perhaps a generator and a model that answers.

    Attributes:
        tokenizer: TokLIP, or a VQ tokenizer with an image size, which has no meaning to show.
    """

    tokenizer: Tokenizer | VQTokenizer
    generator: Generator | None = None
    answering: MultimodalModel | None = None

    @property
    def meaning(self) -> Tokenizer | None:
        """The tokenizer if it is TokLIP."""
        return self.tokenizer if isinstance(self.tokenizer, Tokenizer) else None

    @property
    def vq(self) -> VQConfig:
        return vq_of(self.tokenizer.config)

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of an image in pixels."""
        if self.meaning:
            return tuple(self.meaning.config.vision.size)
        return self.tokenizer.image_size

    @property
    def grid(self) -> tuple[int, ...]:
        """(height, width) of an image in ids."""
        return self.vq.grid_of(*self.size)

    @property
    def ids_shape(self) -> tuple[int, ...]:
        """The shape of an image's ids: (n,), or (n, q) where a place has q."""
        return ids_shape(self.vq, self.grid)

    @functools.cached_property
    def has_texts(self) -> bool:
        """Whether phrases can be read: TokLIP, with its text tokenizer."""
        return self.meaning is not None and _works(lambda: self.meaning.text_features(["a"]))

    @functools.cached_property
    def generator_shares_ids(self) -> bool:
        """Whether ids of the tokenizer can be completed by the generator."""
        return self.generator is not None and self._shares_ids(self.generator)

    @functools.cached_property
    def is_asked_by_ids(self) -> bool:
        """Whether the model that answers reads the tokenizer's ids; otherwise it gets pictures."""
        model = self.answering
        if model is None or not model.config.needs_ids or PIXELS in model.config.reads:
            return False
        return self._shares_ids(model)

    def some_ids(self, count: int, seed: int = 0) -> Int[np.ndarray, "b n *q"]:
        """Returns random ids of images."""
        rng = np.random.default_rng(seed)
        sizes = self.vq.codebook_sizes
        n, *several = self.ids_shape
        columns = [rng.integers(0, size, (count, n), np.int32) for size in sizes]
        return np.stack(columns, axis=-1) if several else columns[0]

    def _shares_ids(self, other: Generator | MultimodalModel) -> bool:
        """Whether another model makes the same images of the same ids."""
        ids = self.some_ids(1)
        ours = np.asarray(self.tokenizer.detokenize(ids))
        try:
            theirs = np.asarray(other.detokenize(ids))
        except UserError:  # of another grid, or another codebook
            return False
        return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() < SAME)


SAME = 0.02  # of a range of 2: rounding in bfloat16 stays below, another codebook doesn't


def load_models(
    weights: str,
    generator: str | None = None,
    model: str | None = None,
    *,
    tokenizer: str | None = None,
    image_size: int | Sequence[int] | None = None,
) -> Models:
    """Returns the models of paths, as `load` takes them.

    Args:
        weights: TokLIP's, or a VQ tokenizer's.
        generator: an image generator's; without a tokenizer of its own it gets that of `weights`.
        model: a multimodal model's.
        tokenizer: TokLIP's text tokenizer, where its weights hold none.
        image_size: side of the images, which a VQ tokenizer alone needs.

    Raises:
        ValueError: weights of another kind.
        FileNotFoundError: nothing at a path.
    """
    options = {"tokenizer": tokenizer} if tokenizer else {}
    loaded = load(weights, image_size=image_size, **options)
    _expect_kind(loaded, (Tokenizer, VQTokenizer), "weights", "TokLIP or a VQ tokenizer")
    if isinstance(loaded, VQTokenizer) and len(loaded.image_size or ()) != 2:
        raise UserError(
            "expected --image-size=..., the side of the images, with a VQ tokenizer alone, got none"
        )
    drawing = answering = None
    if generator:
        drawing = load(generator)
        _expect_kind(drawing, Generator, "generator", "an image generator")
        if drawing.config.tokenizer is None:
            drawing = load(generator, vq=weights)
    if model:
        answering = load(model)
        _expect_kind(answering, MultimodalModel, "model", "a multimodal model")
    return Models(loaded, drawing, answering)


def _expect_kind(loaded, kind, flag, title):
    if not isinstance(loaded, kind):
        raise UserError(f"expected the weights of {title} in --{flag}, got {loaded!r}")


def _works(call):
    try:
        call()
    except UserError:
        return False
    return True
