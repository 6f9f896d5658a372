"""Sizes of LlamaGen's VQ tokenizers."""

import dataclasses

from toklip_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes of the tokenizer; the defaults are VQ-16's.

    Attributes:
        codebook_size: number of codes.
        codebook_dim: length of a code vector.
        is_l2_normalised: latents and codes are compared, and handed on, at unit length.
        channels: width of the convolutions at full resolution.
        multipliers: factors of `channels`, level by level; each level but the last halves the
            resolution.
        num_res_blocks: blocks in an encoder's level; the decoder's have one more.
        z_channels: channels of the encoder's output, before the 1x1 convolution to `codebook_dim`.
        stem_patch: space-to-depth factor before the first convolution and after the last; 1 in
            all released weights. 2 or 4 makes small images cheap on CPUs.
    """

    codebook_size: int = 16_384
    codebook_dim: int = 8
    is_l2_normalised: bool = True
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    stem_patch: int = 1

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        for name in ("codebook_size", "codebook_dim", "channels", "num_res_blocks", "z_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"expected a {name} of at least 1, got {getattr(self, name)}")
        if not self.multipliers or min(*self.multipliers, self.stem_patch) < 1:
            raise UserError(
                f"expected multipliers and a stem_patch of at least 1, got {self.multipliers} and "
                f"{self.stem_patch}"
            )
        if self.channels % 32:
            raise UserError(
                f"expected channels divisible by 32 (the group norm's groups), got {self.channels}"
            )

    codes_per_place = 1
    licence = "MIT"

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    @property
    def code_dim(self) -> int:
        return self.codebook_dim

    @property
    def downsample(self) -> int:
        """Pixels of a place's side."""
        return self.stem_patch * 2 ** (len(self.multipliers) - 1)

    @property
    def smallest_size(self) -> tuple[int, int]:
        return self.downsample, self.downsample

    def grid_of(self, *size: int) -> tuple[int, int]:
        """Returns (height, width) of the grid of ids of an image of this height and width.

        Raises:
            ValueError: the down-sampling does not divide the sides, or it is no image's size.
        """
        factor = self.downsample
        if len(size) != 2 or any(side % factor or side < factor for side in size):
            shown = "x".join(map(str, size))
            raise UserError(f"expected image sides divisible by {factor}, got {shown}: resize them")
        return size[0] // factor, size[1] // factor
