"""Sizes of VILA-U's tokenizers."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.models.convolutional_vq import resolved_levels
from toklip_jax.nn.config import TransformerConfig

COUNTS = (
    "image_size",
    "patch_size",
    "codebook_size",
    "channels",
    "num_res_blocks",
    "z_channels",
)


@dataclasses.dataclass(frozen=True)
class VilaUConfig:
    """Sizes of the tokenizer; the defaults are those of 256 pixels.

    Attributes:
        image_size: side of the images, in pixels.
        patch_size: side of the part of an image that one place of the grid sees. Where patches
            don't divide `image_size`, the last pixels of rows and columns are not seen.
        width: width of the encoder, and length of a code vector.
        depth: blocks of the encoder that run. Files have one more: SigLIP's last is not used.
        num_heads: heads of the encoder.
        mlp_dim: hidden size of the encoder's MLPs.
        codebook_size: number of codes in a codebook.
        codes_per_place: depth of the residual quantiser.
        is_shared: whether all depths have the same codebook.
        channels: width of the decoder's convolutions at full resolution.
        multipliers: factors of `channels`, level by level from the highest resolution; each level
            but the last doubles it.
        num_res_blocks: one less than the blocks in a level of the decoder.
        attention_levels: levels of the decoder with attention (see `resolved_levels`).
        z_channels: channels of the decoder's input.
        decoder_grid: side of the grid that code vectors are resized to before they are decoded;
            None for the grid of ids.
        has_decoder: false of files that leave it out.
    """

    image_size: int = 256
    patch_size: int = 16
    width: int = 1024
    depth: int = 23
    num_heads: int = 16
    mlp_dim: int = 4096
    codebook_size: int = 16_384
    codes_per_place: int = 4
    is_shared: bool = True
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (-1,)
    z_channels: int = 256
    decoder_grid: int | None = None
    has_decoder: bool = True

    licence = "MIT"  # the code's; the page of the weights was not seen

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"expected a {name} of at least 1, got {getattr(self, name)}")
        if self.codes_per_place < 2:
            raise UserError(
                f"expected at least 2 codes_per_place of a residual quantiser, got "
                f"{self.codes_per_place}"
            )
        if self.patch_size > self.image_size:
            raise UserError(
                f"expected a patch_size of at most the image_size {self.image_size}, got "
                f"{self.patch_size}"
            )
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"expected multipliers of at least 1, got {self.multipliers}")
        levels = resolved_levels(self.attention_levels, len(self.multipliers))
        object.__setattr__(self, "attention_levels", levels)
        if self.channels % 32:
            raise UserError(
                f"expected channels divisible by 32 (the group norm's groups), got {self.channels}"
            )
        if self.decoder_grid is not None and self.decoder_grid < 1:
            raise UserError(f"expected a decoder_grid of at least 1, got {self.decoder_grid}")
        _ = self.encoder  # which checks its own sizes

    @property
    def encoder(self) -> TransformerConfig:
        """SigLIP's blocks: layer norms with eps 1e-6, GELU by tanh, separate projections."""
        return TransformerConfig(
            self.width,
            self.depth,
            self.num_heads,
            self.mlp_dim,
            activation="gelu_tanh",
            norm_eps=1e-6,
            projection="separate",
        )

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,) * self.codes_per_place

    @property
    def code_dim(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of the grid of ids."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def decoded_size(self) -> tuple[int, int]:
        """(height, width) of the images that the grid of ids is decoded to."""
        side = self.decoder_grid or self.grid[0]
        side *= 2 ** (len(self.multipliers) - 1)
        return side, side

    @property
    def smallest_size(self) -> tuple[int, int]:
        return self.image_size, self.image_size

    def grid_of(self, *size: int) -> tuple[int, int]:
        """Returns the grid of ids, the same for every image: the encoder's positions are learned.

        Args:
            size: (height, width): `image_size`, or as much of it as whole patches cover.

        Raises:
            ValueError: another size.
        """
        whole = tuple(side * self.patch_size for side in self.grid)
        if size not in (self.smallest_size, whole):
            shown = "x".join(map(str, size))
            raise UserError(
                f"expected images of {self.image_size}x{self.image_size}, the one size that this "
                f"tokenizer has positions for, got {shown}: resize them"
            )
        return self.grid
