"""Sizes of Open-MAGVIT2's tokenizers."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalSizes
from toklip_jax.nn.quantisers import check_bits


@dataclasses.dataclass(frozen=True)
class Magvit2Config(ConvolutionalSizes):
    """Sizes of the tokenizer; the defaults are those of 256-pixel images with 262,144 codes.

    There is no attention.

    Attributes:
        num_res_blocks: blocks in a level, and in the middle, of the encoder and of the decoder.
        z_channels: channels of the encoder's output, whose signs are the code: there are
            2^z_channels codes.
    """

    num_res_blocks: int = 4
    z_channels: int = 18

    attention_levels = ()
    codes_per_place = 1
    licence = "Apache-2.0"

    def __post_init__(self):
        super().__post_init__()
        check_bits(self.z_channels)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (2**self.z_channels,)

    @property
    def code_dim(self) -> int:
        return self.z_channels
