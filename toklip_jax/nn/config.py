"""Sizes of the transformer towers and how they compute."""

import dataclasses

import jax.numpy as jnp

from toklip_jax.ops.activations import activation

SO400M_MLP_RATIO = 3.7362  # 4304 / 1152, the shape of SigLIP's So400m
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
