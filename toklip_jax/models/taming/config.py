"""Sizes of taming-transformers' VQGAN."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalVQConfig


@dataclasses.dataclass(frozen=True)
class TamingConfig(ConvolutionalVQConfig):
    """Sizes of the tokenizer; the defaults are those of ImageNet's f16 with 16,384 codes.

    Attributes:
        attention_levels: levels with attention (see `resolved_levels`). The original configs name
            resolutions instead, those of their training images.
    """

    codebook_dim: int = 256
    attention_levels: tuple[int, ...] = (-1,)
