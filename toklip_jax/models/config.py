"""Sizes of the transformer towers and how they compute."""

import dataclasses
import math

import jax.numpy as jnp

from toklip_jax.ops.activations import activation

SO400M_MLP_RATIO = 3.7362  # 4304 / 1152, the shape of SigLIP's So400m
POOLS = ("map", "flatten")
REMATS = ("none", "dots", "full")
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float16")}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model computes; none of it changes what the parameters mean.

    Attributes:
        dtype: type of activations; parameters stay float32, and norms, softmax, losses and
            codebook distances compute in float32.
        vq_dtype: of the VQ tokenizer's activations; ids depend on it, so lower it knowingly.
        is_scanned: one stacked block scanned over the layers (fast to compile), or `depth` blocks.
            The parameters' layout follows: `convert` stacks and unstacks it.
        remat: what the backward pass of a block computes again and doesn't keep: "none" (but norms
            and activation functions, always), "dots" (all but the products with weights) or "full".
    """

    dtype: str = "float32"
    vq_dtype: str = "float32"
    is_scanned: bool = True
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in REMATS:
            raise ValueError(f"expected remat of {REMATS}, got {self.remat!r}")
        for dtype in (self.dtype, self.vq_dtype):
            if dtype not in DTYPES:
                raise ValueError(f"expected a dtype of {sorted(DTYPES)}, got {dtype!r}")

    @property
    def jax_dtype(self) -> jnp.dtype:
        return DTYPES[self.dtype]

    @property
    def vq_jax_dtype(self) -> jnp.dtype:
        return DTYPES[self.vq_dtype]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A stack of pre-norm transformer blocks. `mlp_dim` 0 means So400m's int(width * 3.7362)."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int = 0
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-6
    is_causal: bool = False

    def __post_init__(self):
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", int(self.width * SO400M_MLP_RATIO))
        activation(self.activation)
        if self.width % self.num_heads:
            raise ValueError(
                f"expected num_heads to divide the width, got {self.num_heads} heads and width "
                f"{self.width}"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


@dataclasses.dataclass(frozen=True)
class VisionConfig(TransformerConfig):
    """An image tower with pooling: the teacher's, or the token encoder.

    Attributes:
        image_size: side of the square image, pixels.
        patch_size: pixels of a patch's side; under a token encoder, the VQ's down-sampling.
        mapping_activation: between the two layers that map code vectors to the width.
        pool: "map", attention pooling, as all released weights; or "flatten" (see `pooling`).
    """

    image_size: int = 256
    patch_size: int = 16
    pool: str = "map"
    mapping_activation: str = "gelu_erf"

    def __post_init__(self):
        super().__post_init__()
        if self.pool not in POOLS:
            raise ValueError(f"expected a pool of {POOLS}, got {self.pool!r}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected patch_size to divide image_size, got {self.patch_size} and "
                f"{self.image_size}"
            )

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        return self.grid**2


@dataclasses.dataclass(frozen=True)
class TextConfig(TransformerConfig):
    """The text tower: no mask, pooled at the last position.

    Attributes:
        tokenizer: hub id of the Hugging Face tokenizer the weights were trained with, if public.
    """

    vocab_size: int = 256_000
    context_length: int = 64
    embed_dim: int = 0  # 0: the width
    tokenizer: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not self.embed_dim:
            object.__setattr__(self, "embed_dim", self.width)


def square_side(n: int) -> int:
    """Returns the side of a square grid of `n` tokens.

    Raises:
        ValueError: `n` is not a square number.
    """
    side = math.isqrt(n)
    if side * side != n:
        raise ValueError(f"expected ids of a square grid (n a square number), got n = {n}")
    return side
