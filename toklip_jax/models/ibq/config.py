"""Sizes of IBQ's tokenizers."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalVQConfig


@dataclasses.dataclass(frozen=True)
class IBQConfig(ConvolutionalVQConfig):
    """Sizes of the tokenizer; the defaults are those with 262,144 codes, which TokLIP-XL has.

    Attributes:
        attention_levels: levels with attention (see `resolved_levels`). The original config names
            the resolution 16 of training images of 256; at 512 pixels the same level has a grid of
            32 x 32.
    """

    codebook_size: int = 262_144
    codebook_dim: int = 256
    num_res_blocks: int = 4
    attention_levels: tuple[int, ...] = (-1,)

    licence = "Apache-2.0"
