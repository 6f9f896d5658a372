"""Sizes of SigLIP 2: its image tower, its text tower, and both."""

import dataclasses
import math

from toklip_jax.core.errors import UserError
from toklip_jax.nn.config import TransformerConfig

POOLS = ("map", "flatten")
MAX_TOKENS = 2**20  # of an image; 1,024 in the largest released model


@dataclasses.dataclass(frozen=True)
class VisionConfig(TransformerConfig):
    """An image tower with pooling: the teacher's, or TokLIP's token encoder.

    Attributes:
        image_size: pixels, the side of a square image, or (height, width), or (frames, height,
            width) of a video.
        patch_size: the part of an image that one token stands for, in the same form.
        pool: "map", attention pooling, as all released weights; or "flatten" (see `nn.pooling`).
        mapping_activation: between the two layers that map code vectors to the width.
    """

    image_size: int | tuple[int, ...] = 256
    patch_size: int | tuple[int, ...] = 16
    pool: str = "map"
    mapping_activation: str = "gelu_erf"

    def __post_init__(self):
        super().__post_init__()
        if self.pool not in POOLS:
            raise UserError(f"expected a pool of {POOLS}, got {self.pool!r}")
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, _simplest(getattr(self, name)))
        size, patch = self.size, self.patch
        fits = len(size) == len(patch) and min(*size, *patch) > 0
        if not fits or any(s % p for s, p in zip(size, patch, strict=True)):
            raise UserError(
                f"expected patch_size to divide image_size, got {self.patch_size} and "
                f"{self.image_size}"
            )
        if self.num_tokens > MAX_TOKENS:
            raise UserError(
                f"expected an image_size of at most {MAX_TOKENS:,} patches, got {self.image_size} "
                f"with patch_size {self.patch_size}"
            )

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of an image, or (frames, height, width) of a video."""
        return _sides(self.image_size, 2)

    @property
    def patch(self) -> tuple[int, ...]:
        """Pixels of a patch along each side of `size`."""
        return _sides(self.patch_size, len(self.size))

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens along each side of `size`."""
        return tuple(s // p for s, p in zip(self.size, self.patch, strict=True))

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)


@dataclasses.dataclass(frozen=True)
class TextConfig(TransformerConfig):
    """The text tower: no mask, pooled at the last position.

    Attributes:
        embed_dim: width of its features; 0 for the tower's.
        tokenizer: hub id of the Hugging Face tokenizer the weights were trained with, if public.
    """

    vocab_size: int = 256_000
    context_length: int = 64
    embed_dim: int = 0
    tokenizer: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not self.embed_dim:
            object.__setattr__(self, "embed_dim", self.width)
        if min(self.vocab_size, self.context_length, self.embed_dim) < 1:
            raise UserError(
                f"expected a vocab_size, context_length and embed_dim of at least 1, got "
                f"{self.vocab_size}, {self.context_length} and {self.embed_dim}"
            )


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Sizes of a SigLIP 2 model.

    Attributes:
        text: None for an image tower alone, which has no logit scale or bias either: it can be
            evaluated and converted, but neither trained nor start TokLIP's training.
    """

    vision: VisionConfig
    text: TextConfig | None
    has_logit_bias: bool = True


def expect_text(teacher: TeacherConfig) -> None:
    """Raises ValueError for an image tower alone."""
    if teacher.text is None:
        raise UserError(
            "expected a SigLIP with its text tower, got an image tower alone: take the file of the "
            "whole model, such as open_clip's or Hugging Face's"
        )


def _sides(size: int | tuple[int, ...], count: int) -> tuple[int, ...]:
    return (size,) * count if isinstance(size, int) else size


def _simplest(size):
    """A square as its side, so that equal sizes are equal however they were given."""
    if isinstance(size, int):
        return size
    sides = tuple(int(side) for side in size)
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else sides
