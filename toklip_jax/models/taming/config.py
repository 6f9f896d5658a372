"""Sizes of taming-transformers' VQGAN."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalVQConfig


@dataclasses.dataclass(frozen=True)
class TamingConfig(ConvolutionalVQConfig):
    """Sizes of the tokenizer; the defaults are those of ImageNet's f16 with 16,384 codes.

    Attributes:
        attention_levels: levels with attention, counted from the highest resolution. The original
            configs name resolutions instead, those of their training images.
    """

    codebook_dim: int = 256
    attention_levels: tuple[int, ...] = (4,)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
