"""Sizes of T5's text encoder."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.files.shapes import MAX_LAYERS
from toklip_jax.ops.activations import activation


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of the encoder; the defaults are Flan-T5-XL's, whose features LlamaGen reads.

    Attributes:
        vocab_size: rows of the token table; there may be more than the tokenizer has ids.
        width: length of a token's feature.
        head_dim: size of a head; num_heads * head_dim may differ from the width.
        is_gated: whether an activated third layer multiplies the MLP's hidden units, as in T5 1.1
            and Flan-T5.
        activation: a name of `ops.activations`: "gelu_tanh" in T5 1.1 and Flan-T5, "relu" in T5.
        num_buckets: how many classes of distances between tokens have a bias of their own.
        max_distance: tokens farther apart share one of them.
        pad_id: the id that fills a text up to the common length.

    Raises:
        ValueError: a size below 1, or buckets that don't fit the distance.
    """

    vocab_size: int = 32_128
    width: int = 2048
    depth: int = 24
    num_heads: int = 32
    head_dim: int = 64
    mlp_dim: int = 5120
    is_gated: bool = True
    activation: str = "gelu_tanh"
    num_buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    pad_id: int = 0

    def __post_init__(self):
        activation(self.activation)
        sizes = ("vocab_size", "width", "depth", "num_heads", "head_dim", "mlp_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"expected a {name} of at least 1, got {getattr(self, name)}")
        if self.depth > MAX_LAYERS:
            raise UserError(f"expected a depth of at most {MAX_LAYERS}, got {self.depth}")
        if self.num_buckets < 4 or self.num_buckets % 4 or self.max_distance <= self.exact_buckets:
            raise UserError(
                f"expected a multiple of 4 as num_buckets and a max_distance above "
                f"{self.exact_buckets}, got {self.num_buckets} and {self.max_distance}"
            )

    @property
    def exact_buckets(self) -> int:
        """Distances, in either direction, that have a bucket to themselves."""
        return self.num_buckets // 4
