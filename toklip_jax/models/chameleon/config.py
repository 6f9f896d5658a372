"""Sizes of Chameleon's VQ tokenizer."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalVQConfig


@dataclasses.dataclass(frozen=True)
class ChameleonConfig(ConvolutionalVQConfig):
    """Sizes of the tokenizer; attention stands in the middle only.

    Attributes:
        has_decoder: false of Hugging Face's files, which leave it out.
    """

    codebook_size: int = 8192
    codebook_dim: int = 256
    has_decoder: bool = True

    attention_levels = ()
    licence = "Chameleon Research License"
