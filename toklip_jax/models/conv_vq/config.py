"""Sizes of the convolutional tokenizer with any quantiser."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.models.convolutional_vq import ConvolutionalSizes
from toklip_jax.nn.quantisers import QuantiserConfig


@dataclasses.dataclass(frozen=True)
class ConvVQConfig(ConvolutionalSizes):
    """Sizes of the tokenizer: LlamaGen's network, and a quantiser of its own.

    Attributes:
        quantiser: the quantiser's config.
        attention_levels: levels with attention beside the middle (see `resolved_levels`).
        decoder_channels: width of the decoder's convolutions at full resolution; 0 for `channels`.
    """

    quantiser: QuantiserConfig = dataclasses.field(default_factory=QuantiserConfig)
    attention_levels: tuple[int, ...] = (-1,)
    decoder_channels: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.decoder_channels < 0 or self.decoder_channels % 32:
            raise UserError(
                f"expected decoder_channels divisible by 32 (the group norm's groups), or 0 for "
                f"the encoder's {self.channels}, got {self.decoder_channels}"
            )

    @property
    def decoder_width(self) -> int:
        return self.decoder_channels or self.channels

    @property
    def codes_per_place(self) -> int:
        return self.quantiser.codes_per_place

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.quantiser.codebook_sizes

    @property
    def code_dim(self) -> int:
        return self.quantiser.code_dim
