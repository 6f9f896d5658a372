"""Sizes of Emu3's vision tokenizer."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.models.convolutional_vq import ConvolutionalVQConfig
from toklip_jax.ops.grids import image_grid, video_grid


@dataclasses.dataclass(frozen=True)
class Emu3Config(ConvolutionalVQConfig):
    """Sizes of the tokenizer; the defaults are the published weights'.

    Attributes:
        z_channels: channels between the two-dimensional and the temporal convolutions; the decoder
            runs codes through the same temporal blocks, so that it equals `codebook_dim`.
        attention_levels: levels with attention (see `resolved_levels`).
        temporal_levels: how often the number of frames is halved.
    """

    codebook_size: int = 32_768
    codebook_dim: int = 4
    channels: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    z_channels: int = 4
    attention_levels: tuple[int, ...] = (-1,)
    temporal_levels: int = 2

    licence = "Apache-2.0"
    takes_videos = True

    def __post_init__(self):
        super().__post_init__()
        if self.temporal_levels < 1:
            raise UserError(f"expected temporal_levels of at least 1, got {self.temporal_levels}")
        if self.z_channels != self.codebook_dim:
            raise UserError(
                f"expected z_channels equal to codebook_dim, as both go through the same temporal "
                f"blocks of the decoder, got {self.z_channels} and {self.codebook_dim}"
            )

    @property
    def temporal_factor(self) -> int:
        """Frames of a place."""
        return 2**self.temporal_levels

    def grid_of(self, *size: int) -> tuple[int, ...]:
        """Returns the grid of an image (height, width), or of a video (frames, height, width).

        Raises:
            ValueError: the down-sampling does not divide the frames or the sides.
        """
        if len(size) not in (2, 3):
            raise UserError(
                f"expected the size of an image, (height, width), or of a video, (frames, height, "
                f"width), got {size}"
            )
        if len(size) == 3:
            return video_grid(size, self.downsample, self.temporal_factor)
        return image_grid(size, self.downsample)
