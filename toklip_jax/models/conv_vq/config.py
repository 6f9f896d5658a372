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
        attention_levels: levels with attention beside the middle, counted from the highest
            resolution, or from the lowest as -1, -2, ...
    """

    quantiser: QuantiserConfig = dataclasses.field(default_factory=QuantiserConfig)
    attention_levels: tuple[int, ...] = (-1,)

    def __post_init__(self):
        super().__post_init__()
        count = len(self.multipliers)
        if any(not -count <= level < count for level in self.attention_levels):
            raise UserError(
                f"expected attention_levels from {-count} to {count - 1}, as there are {count} "
                f"multipliers, got {self.attention_levels}"
            )
        levels = tuple(sorted({level % count for level in self.attention_levels}))
        object.__setattr__(self, "attention_levels", levels)

    @property
    def codes_per_place(self) -> int:
        return self.quantiser.codes_per_place

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.quantiser.codebook_sizes

    @property
    def code_dim(self) -> int:
        return self.quantiser.code_dim
