"""The convolutions over time that Emu3 has between its quantiser and its two-dimensional parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.nn.batch_norm import BatchNorm
from toklip_jax.nn.convolutional import causal_conv

HALVING = (4, 3, 3)  # kernel that halves the frames
KEEPING = (3, 3, 3)


class TemporalEncoder(nn.Module):
    """Halves the frames `levels` times, then applies residual blocks.

    Attributes:
        levels: how often the frames are halved.
    """

    levels: int
    num_res_blocks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], is_training: bool = False
    ) -> Float[Array, "b T h w c"]:
        for i in range(self.levels):
            x = causal_conv(x.shape[-1], HALVING, self.dtype, f"down_{i}", stride=2)(x)
            x = jax.nn.swish(x)
        return temporal_blocks(x, self.num_res_blocks, self.dtype, is_training)


class TemporalDecoder(nn.Module):
    """Applies residual blocks, then doubles the frames `levels` times.

    Attributes:
        levels: how often the frames are doubled.
    """

    levels: int
    num_res_blocks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], is_training: bool = False
    ) -> Float[Array, "b T h w c"]:
        x = temporal_blocks(x, self.num_res_blocks, self.dtype, is_training)
        for i in range(self.levels):
            x = x.repeat(2, axis=1)
            x = jax.nn.swish(causal_conv(x.shape[-1], KEEPING, self.dtype, f"up_{i}")(x))
        return x


def temporal_blocks(
    x: Float[Array, "b t h w c"], count: int, dtype: jnp.dtype, is_training: bool
) -> Float[Array, "b t h w c"]:
    """Applies residual blocks, which are the caller's modules: they are named in its scope."""
    for i in range(count):
        x = TemporalResBlock(dtype, name=f"res_{i}")(x, is_training)
    return x


class TemporalResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with batch norms and causal convolutions."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], is_training: bool = False
    ) -> Float[Array, "b t h w c"]:
        y = x
        for i in (1, 2):
            y = jax.nn.swish(BatchNorm(self.dtype, name=f"norm{i}")(y, is_training))
            y = causal_conv(x.shape[-1], KEEPING, self.dtype, f"conv{i}")(y)
        return x + y
