"""Sizes of UniTok."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.nn.config import TransformerConfig
from toklip_jax.ops.grids import image_grid

NUM_STAGES = 2  # of convolutions, in every ViTamin


@dataclasses.dataclass(frozen=True)
class UniTokConfig:
    """Sizes of the tokenizer; the defaults are those of the published UniTok-Large.

    Attributes:
        codebook_size: number of codes in each codebook.
        num_codebooks: number of codebooks, and of ids a place.
        codebook_dim: length of a code of one codebook.
        channels: widths of the encoder's convolutional stages; the decoder's are the same, in
            reverse.
        depths: blocks in each of the encoder's convolutional stages.
        up_depths: the same of the decoder's, in its own order.
        width: width of both transformers.
        depth: blocks in each transformer.
        num_heads: heads in each block.
        mlp_dim: hidden size of a block's MLP.
        feature_dim: length of UniTok's own image feature; 0 leaves its head out.
        is_causal: whether a place sees only those before it in the two projections around the
            quantiser, as in the first published weights (February 2025); in those of April 2025 and
            later it sees all.
    """

    codebook_size: int = 4096
    num_codebooks: int = 8
    codebook_dim: int = 8
    channels: tuple[int, ...] = (160, 320)
    depths: tuple[int, ...] = (2, 4)
    up_depths: tuple[int, ...] = (4, 2)
    width: int = 1024
    depth: int = 31
    num_heads: int = 16
    mlp_dim: int = 2048
    feature_dim: int = 768
    is_causal: bool = False

    licence = "MIT"
    downsample = 16  # pixels of a place's side: the stem, each stage and the patch embedding halve

    def __post_init__(self):
        for name in ("channels", "depths", "up_depths"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != NUM_STAGES or min(values) < 1:
                raise UserError(
                    f"expected {NUM_STAGES} {name} of at least 1, one for each stage, got {values}"
                )
        for name, least in {"codebook_size": 1, "num_codebooks": 2, "codebook_dim": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"expected a {name} of at least {least}, got {getattr(self, name)}")
        if self.mlp_dim < 1 or self.feature_dim < 0:
            raise UserError(
                f"expected an mlp_dim of at least 1 and a feature_dim of at least 0, got "
                f"{self.mlp_dim} and {self.feature_dim}"
            )
        _ = self.transformer  # checks the other sizes
        if self.width % self.code_dim or self.width == self.code_dim:
            raise UserError(
                f"expected a width that is a multiple of num_codebooks * codebook_dim, the size of "
                f"the projections' heads, got {self.width} and {self.code_dim}"
            )

    @property
    def codes_per_place(self) -> int:
        return self.num_codebooks

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,) * self.num_codebooks

    @property
    def code_dim(self) -> int:
        return self.num_codebooks * self.codebook_dim

    @property
    def transformer(self) -> TransformerConfig:
        """The blocks of the encoder and the decoder."""
        return TransformerConfig(
            self.width, self.depth, self.num_heads, self.mlp_dim, mlp="gated", has_mlp_norm=True
        )

    @property
    def smallest_size(self) -> tuple[int, int]:
        return self.downsample, self.downsample

    def grid_of(self, *size: int) -> tuple[int, int]:
        """Returns (height, width) of the grid of ids of an image of this height and width.

        Raises:
            ValueError: the down-sampling does not divide the sides, or it is no image's size.
        """
        return image_grid(size, self.downsample)
