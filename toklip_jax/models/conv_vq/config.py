"""Sizes of the convolutional tokenizer with any quantiser."""

import dataclasses

from toklip_jax.models.convolutional_vq import ConvolutionalSizes
from toklip_jax.nn.quantisers import QuantiserConfig


@dataclasses.dataclass(frozen=True)
class ConvVQConfig(ConvolutionalSizes):
    """Sizes of the tokenizer: LlamaGen's network, and a quantiser of its own.

    Attributes:
        quantiser: the quantiser's config.
        attention_levels: levels with attention beside the middle (see `resolved_levels`).
    """

    quantiser: QuantiserConfig = dataclasses.field(default_factory=QuantiserConfig)
    attention_levels: tuple[int, ...] = (-1,)

    @property
    def codes_per_place(self) -> int:
        return self.quantiser.codes_per_place

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.quantiser.codebook_sizes

    @property
    def code_dim(self) -> int:
        return self.quantiser.code_dim
