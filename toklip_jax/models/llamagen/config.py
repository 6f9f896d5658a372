"""Sizes of LlamaGen's VQ tokenizers."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalVQConfig


@dataclasses.dataclass(frozen=True)
class LlamaGenConfig(ConvolutionalVQConfig):
    """Sizes of the tokenizer; the defaults are VQ-16's.

    Attributes:
        is_l2_normalised: latents and codes are compared, and handed on, at unit length.
    """

    is_l2_normalised: bool = True

    licence = "MIT"
