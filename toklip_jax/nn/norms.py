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


class GroupNorm(nn.Module):
    """Normalises channels in groups, by the statistics of a group over all places.

    Channels are summed over places first, and then in groups: CPUs sum neighbours in vectors, and a
    group of released tokenizers has 4 to 16. Statistics are float32, the variance by the two-pass
    formula.

    Attributes:
        num_groups: must divide the channels.
    """

    num_groups: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"]) -> Float[Array, "b *n c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - self._mean(x)
        inverse = jax.lax.rsqrt(self._mean(centred**2) + self.epsilon)
        return (centred * (inverse * scale) + bias).astype(self.dtype)

    def _mean(self, x):
        """The mean of each group, for each of its channels: [b, 1, ..., 1, c]."""
        b, *size, c = x.shape
        sums = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))  # [b, c]
        means = jnp.mean(sums.reshape(b, self.num_groups, -1), axis=-1)
        means = jnp.repeat(means, c // self.num_groups, axis=-1)
        return means.reshape(b, *(1,) * len(size), c)
