"""Sizes of the image generator."""

import dataclasses
import math
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.models.base import VQConfig, family_of, ids_shape
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import TransformerConfig

INIT_STD = 0.02  # LlamaGen's, of every weight but the heads'
MLP_MULTIPLE = 256  # LlamaGen rounds the MLP's hidden size up to a multiple of this
SEMANTICS = ("none", "add", "concat")
CODE_INPUTS = ("learned", "codebook")
MAX_PLACES = 2**16


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Sizes of the generator; the defaults are LlamaGen's, for classes of ImageNet at 256 px.

    Exactly one of `num_classes` and `caption_dim` is given: the condition is a class, or the
    features of a caption.

    Attributes:
        width, depth, num_heads: sizes of the transformer.
        mlp_dim: hidden size of the gated MLP; 0 means LlamaGen's, 8/3 of the width rounded up to a
            multiple of 256.
        grid: places of an image, (height, width).
        codebook_sizes: how many values each id of a place has; each has a head of its own.
        num_classes: classes; the one after the last is the null class of guidance.
        caption_dim: width of the features of a caption's tokens.
        caption_length: tokens of a caption, padding included.
        semantic: how the token encoder's causal token s_i joins id i at the input: "none", "add"
            (to the embedding, after a linear layer) or "concat" (a linear layer of both, end to
            end, as in the TokLIP paper).
        code_input: what stands for an id at the input: "learned", an embedding, as in LlamaGen; or
            "codebook", a linear layer of its code vector.
        code_dim: length of a code vector, for "codebook".
        semantic_dim: length of s_i.
        dropout: share of embeddings and of the blocks' outputs that training drops.
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 0
    grid: tuple[int, int] = (16, 16)
    codebook_sizes: tuple[int, ...] = (16_384,)
    num_classes: int = 1000
    caption_dim: int = 0
    caption_length: int = 0
    semantic: str = "none"
    code_input: str = "learned"
    code_dim: int = 0
    semantic_dim: int = 0
    dropout: float = 0.1

    def __post_init__(self):
        for name in ("grid", "codebook_sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_name("semantic", self.semantic, SEMANTICS)
        check_name("code_input", self.code_input, CODE_INPUTS)
        if min(self.width, self.depth, self.num_heads) < 1 or self.mlp_dim < 0:
            raise UserError(
                f"expected a width, depth and num_heads of at least 1 and an mlp_dim of at least "
                f"0, got {self.width}, {self.depth}, {self.num_heads} and {self.mlp_dim}"
            )
        if not self.mlp_dim:
            hidden = int(8 * self.width / 3)
            rounded = MLP_MULTIPLE * math.ceil(hidden / MLP_MULTIPLE)
            object.__setattr__(self, "mlp_dim", rounded)
        if len(self.grid) != 2 or min(self.grid) < 1 or math.prod(self.grid) > MAX_PLACES:
            raise UserError(
                f"expected a grid of (height, width), of at most {MAX_PLACES:,} places, got "
                f"{self.grid}"
            )
        if not self.codebook_sizes or min(self.codebook_sizes) < 2:
            raise UserError(f"expected codebook_sizes of at least 2, got {self.codebook_sizes}")
        self._check_condition()
        self._check_inputs()
        self.stack  # noqa: B018 - its own checks

    @property
    def stack(self) -> TransformerConfig:
        """The transformer: LlamaGen's block."""
        return TransformerConfig(
            self.width,
            self.depth,
            self.num_heads,
            self.mlp_dim,
            activation="silu",
            norm_eps=1e-5,
            is_causal=True,
            norm="rms",
            mlp="gated",
            has_qkv_bias=False,
            has_bias=False,
            positions="rotary_2d",
            rotary_width=self.grid[1],
            rotary_prefix=self.prefix,
            init_std=INIT_STD,
            dropout=self.dropout,
        )

    @property
    def prefix(self) -> int:
        """Positions of the condition, before those of the ids."""
        return self.caption_length if self.caption_dim else 1

    @property
    def num_places(self) -> int:
        return math.prod(self.grid)

    @property
    def num_positions(self) -> int:
        """Positions of the condition and of all ids."""
        return self.prefix + self.num_places

    @property
    def codes_per_place(self) -> int:
        return len(self.codebook_sizes)

    @property
    def ids_shape(self) -> tuple[int, ...]:
        """The shape of an image's ids: (n,), or (n, q) where a place has q."""
        places = (self.num_places,)
        return places if self.codes_per_place == 1 else (*places, self.codes_per_place)

    @property
    def null_class(self) -> int:
        """The class that stands for no condition."""
        return self.num_classes

    def _check_condition(self):
        if min(self.num_classes, self.caption_dim, self.caption_length) < 0:
            raise UserError(
                f"expected num_classes, caption_dim and caption_length of at least 0, got "
                f"{self.num_classes}, {self.caption_dim} and {self.caption_length}"
            )
        if (self.num_classes > 0) == (self.caption_dim > 0):
            raise UserError(
                f"expected either num_classes or caption_dim above 0, got {self.num_classes} and "
                f"{self.caption_dim}"
            )
        if (self.caption_dim > 0) != (self.caption_length > 0):
            raise UserError(
                f"expected caption_length with caption_dim and not without, got "
                f"{self.caption_length} and {self.caption_dim}"
            )

    def _check_inputs(self):
        if (self.semantic != "none") != (self.semantic_dim > 0):
            raise UserError(
                f"expected a semantic_dim above 0 with semantic='add' or 'concat' alone, got "
                f"{self.semantic_dim} with {self.semantic!r}"
            )
        if (self.code_input == "codebook") != (self.code_dim > 0):
            raise UserError(
                f"expected a code_dim above 0 with code_input='codebook' alone, got "
                f"{self.code_dim} with {self.code_input!r}"
            )


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """A generator with the tokenizer that its ids are of.

    Attributes:
        gpt: the generator's sizes.
        tokenizer: the config of a VQ tokenizer, or of TokLIP where the generator sees its tokens;
            None for a generator alone, as LlamaGen's files hold it.
    """

    gpt: GPTConfig
    tokenizer: Any = None

    def __post_init__(self):
        if self.tokenizer is not None:
            expect_tokenizer(self.gpt, self.tokenizer)
        elif needs_tokenizer(self.gpt):
            raise UserError(
                f"expected a tokenizer with semantic={self.gpt.semantic!r} and code_input="
                f"{self.gpt.code_input!r}, which read it, got none"
            )


def needs_tokenizer(config: GPTConfig) -> bool:
    """Returns whether the generator's input depends on more than ids."""
    return config.semantic != "none" or config.code_input == "codebook"


def vq_of(tokenizer: Any) -> VQConfig:
    """Returns the config of the VQ tokenizer: itself, or that within TokLIP's."""
    return tokenizer.vq if isinstance(tokenizer, TokLIPConfig) else tokenizer


def expect_tokenizer(config: GPTConfig, tokenizer: Any) -> None:
    """Checks that a tokenizer's ids are those that a generator is for.

    Raises:
        ValueError: another vocabulary, another grid, no causal token encoder where its tokens are
            read, or vectors of other widths.
    """
    role = family_of(tokenizer).role
    if role not in ("vq", "toklip"):
        raise UserError(f"expected a VQ tokenizer or TokLIP, got {family_of(tokenizer).title}")
    vq = vq_of(tokenizer)
    if tuple(vq.codebook_sizes) != config.codebook_sizes:
        raise UserError(
            f"expected a tokenizer with codebooks of {config.codebook_sizes}, the generator's, got "
            f"one with {tuple(vq.codebook_sizes)}: name the one that it was trained with"
        )
    if ids_shape(vq, config.grid) != config.ids_shape:
        raise UserError(
            f"expected a tokenizer of {config.codes_per_place} ids a place, got "
            f"{vq.codes_per_place}"
        )
    if config.code_input == "codebook" and vq.code_dim != config.code_dim:
        raise UserError(
            f"expected a tokenizer with code vectors of {config.code_dim}, got {vq.code_dim}"
        )
    if role == "toklip" and tokenizer.vision.grid != config.grid:
        raise UserError(
            f"expected TokLIP with a grid of {config.grid}, the generator's, got "
            f"{tokenizer.vision.grid}: pass grid=... if the generator's was taken wrongly"
        )
    if config.semantic != "none":
        _expect_semantic(config, tokenizer, role)


def _expect_semantic(config, tokenizer, role):
    if role != "toklip":
        raise UserError(
            f"expected TokLIP with semantic={config.semantic!r}, which reads its tokens, got a VQ "
            f"tokenizer alone: name TokLIP's weights, or set semantic='none'"
        )
    vision = tokenizer.vision
    if not vision.is_causal:
        raise UserError(
            f"expected a causal token encoder with semantic={config.semantic!r}, got one in which "
            f"every token sees all ids, those still to be drawn among them: train TokLIP with "
            f"is_causal=True, or set semantic='none'"
        )
    if vision.width != config.semantic_dim:
        raise UserError(f"expected TokLIP with tokens of {config.semantic_dim}, got {vision.width}")
