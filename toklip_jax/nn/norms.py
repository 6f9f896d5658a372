"""Norms over the last axis, with statistics in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.nn.config import TransformerConfig


def build_norm(config: TransformerConfig, dtype: jnp.dtype, name: str | None) -> nn.Module:
    """Returns the norm that the config names; `name` is None in `setup`, where attributes name."""
    return {"layer": layer_norm, "rms": rms_norm}[config.norm](config.norm_eps, dtype, name)


def layer_norm(eps: float, dtype: jnp.dtype, name: str | None) -> nn.LayerNorm:
    """Returns a layer norm whose float32 statistics use the two-pass formula, as torch's.

    Its backward pass stores only the input and recomputes the rest. That saves memory and, on CPU,
    where XLA would recompute chains of norms of layers that aren't scanned, most of the time
    (docs/performance.md).
    """
    norm = nn.remat(nn.LayerNorm)
    return norm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


def rms_norm(eps: float, dtype: jnp.dtype, name: str | None) -> "RmsNorm":
    """Returns an RMS norm whose backward pass stores only the input."""
    return nn.remat(RmsNorm)(eps, dtype, name=name)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale (arXiv 1910.07467).

    Computed in float32 and cast before the scale multiplies, as in Llama's, LlamaGen's and Qwen's
    code: in bfloat16 the order matters.
    """

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return x.astype(self.dtype) * scale.astype(self.dtype)
