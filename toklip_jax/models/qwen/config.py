"""Sizes of Qwen2.5 and Qwen3."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.nn.config import TransformerConfig

INIT_STD = 0.02  # `initializer_range` of all published sizes


@dataclasses.dataclass(frozen=True)
class QwenConfig:
    """Sizes of a language model of Qwen; the defaults are those that all published ones share.

    Attributes:
        width, depth, num_heads: sizes of the transformer.
        num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads query heads.
        mlp_dim: hidden size of the gated MLP.
        head_dim: size of a head; 0 means width / num_heads. Qwen3's is not that.
        vocab_size: rows of the embedding, more than the text tokenizer has tokens.
        max_positions: tokens of the longest sequence that the model is for.
        has_qkv_bias: whether queries, keys and values have biases: Qwen2.5's do.
        has_qk_norm: whether the heads of queries and keys are normalised, before they are rotated
            by their positions: Qwen3's are.
        is_tied: whether the head is the embedding.
        rotary_base: see `TransformerConfig`.
        norm_eps: added to the mean square in every norm.
    """

    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    head_dim: int = 0
    vocab_size: int = 151_936
    max_positions: int = 32_768
    has_qkv_bias: bool = True
    has_qk_norm: bool = False
    is_tied: bool = True
    rotary_base: float = 1e6
    norm_eps: float = 1e-6

    def __post_init__(self):
        if min(self.num_kv_heads, self.mlp_dim, self.vocab_size, self.max_positions) < 1:
            raise UserError(
                f"expected num_kv_heads, mlp_dim, vocab_size and max_positions of at least 1, got "
                f"{self.num_kv_heads}, {self.mlp_dim}, {self.vocab_size} and {self.max_positions}"
            )
        object.__setattr__(self, "head_dim", self.stack.head_dim)  # with the stack's own checks

    @property
    def stack(self) -> TransformerConfig:
        """The transformer."""
        return TransformerConfig(
            self.width,
            self.depth,
            self.num_heads,
            self.mlp_dim,
            activation="silu",
            norm_eps=self.norm_eps,
            is_causal=True,
            norm="rms",
            mlp="gated",
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            has_qkv_bias=self.has_qkv_bias,
            has_bias=False,
            projection="separate",
            has_qk_norm=self.has_qk_norm,
            positions="rotary",
            rotary_base=self.rotary_base,
            init_std=INIT_STD,
        )
