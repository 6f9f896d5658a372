"""The convolutional encoder and decoder that VQGAN's descendants share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.ops.attention import attention

GROUP_NORM_EPS = 1e-6


class Encoder(nn.Module):
    """Encodes images as latents, through levels of residual blocks.

    Each level but the last halves the resolution. Attention follows each residual block of some
    levels, and stands in the middle.

    Attributes:
        attention_levels: levels with attention, counted from the highest resolution.
    """

    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_levels: tuple[int, ...]
    z_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W z"]:
        x = conv(self.channels, self.dtype, "conv_in")(x)
        last = len(self.multipliers) - 1
        for i, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            for j in range(self.num_res_blocks):
                x = ResBlock(width, self.dtype, name=f"levels_{i}_res_{j}")(x)
                if i in self.attention_levels:
                    x = AttentionBlock(self.dtype, name=f"levels_{i}_attn_{j}")(x)
            if i != last:
                x = Downsample(self.dtype, name=f"levels_{i}_downsample")(x)
        x = middle(x, self.dtype)
        x = jax.nn.swish(group_norm(self.dtype, "norm_out")(x))
        return conv(self.z_channels, self.dtype, "conv_out")(x)


class Decoder(nn.Module):
    """Decodes latents to images: the encoder's mirror, with one more residual block in each level.

    Its modules' names count levels from the lowest resolution.

    Attributes:
        attention_levels: as the encoder's, counted from the highest resolution.
    """

    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_levels: tuple[int, ...]
    out_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w z"]) -> Float[Array, "b H W c"]:
        x = conv(self.channels * self.multipliers[-1], self.dtype, "conv_in")(x)
        x = middle(x, self.dtype)
        last = len(self.multipliers) - 1
        for i, multiplier in enumerate(reversed(self.multipliers)):
            width = self.channels * multiplier
            for j in range(self.num_res_blocks + 1):
                x = ResBlock(width, self.dtype, name=f"levels_{i}_res_{j}")(x)
                if last - i in self.attention_levels:
                    x = AttentionBlock(self.dtype, name=f"levels_{i}_attn_{j}")(x)
            if i != last:
                x = Upsample(self.dtype, name=f"levels_{i}_upsample")(x)
        x = jax.nn.swish(group_norm(self.dtype, "norm_out")(x))
        return conv(self.out_channels, self.dtype, "conv_out")(x)


def middle(x: Float[Array, "b h w c"], dtype: jnp.dtype) -> Float[Array, "b h w c"]:
    """Applies a residual, an attention and a residual block, at the lowest resolution.

    Its modules are the caller's: they are named in its scope.
    """
    x = ResBlock(x.shape[-1], dtype, name="mid_res_0")(x)
    x = AttentionBlock(dtype, name="mid_attn")(x)
    return ResBlock(x.shape[-1], dtype, name="mid_res_1")(x)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 shortcut where the width changes."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        y = conv(self.width, self.dtype, "conv1")(jax.nn.swish(group_norm(self.dtype, "norm1")(x)))
        y = conv(self.width, self.dtype, "conv2")(jax.nn.swish(group_norm(self.dtype, "norm2")(y)))
        if x.shape[-1] != self.width:
            x = conv(self.width, self.dtype, "shortcut", kernel=1)(x)
        return x + y


class AttentionBlock(nn.Module):
    """Adds single-head attention over all places, with scale c^-0.5, to its input."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = group_norm(self.dtype, "norm")(x)
        query, key, value = (
            conv(c, self.dtype, name, kernel=1)(y).reshape(b, h * w, 1, c)
            for name in ("q", "k", "v")
        )
        out = attention(query, key, value).reshape(b, h, w, c)
        return x + conv(c, self.dtype, "proj", kernel=1)(out)


class Downsample(nn.Module):
    """Halves the resolution by a 3x3 convolution, padded at the right and the bottom only."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return conv(x.shape[-1], self.dtype, "conv", stride=2, padding="VALID")(x)


class Upsample(nn.Module):
    """Doubles the resolution by nearest neighbours, then applies a 3x3 convolution."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return conv(x.shape[-1], self.dtype, "conv")(x)


def conv(
    features: int,
    dtype: jnp.dtype,
    name: str | None,
    kernel: int = 3,
    stride: int = 1,
    padding: str | int | None = None,
) -> nn.Conv:
    """Returns a square convolution, by default zero-padded so that it keeps the resolution."""
    padding = kernel // 2 if padding is None else padding
    return nn.Conv(features, (kernel,) * 2, stride, padding=padding, dtype=dtype, name=name)


def group_norm(dtype: jnp.dtype, name: str) -> nn.GroupNorm:
    """Returns a group norm of 32 groups, whose float32 statistics use the two-pass formula."""
    return nn.GroupNorm(
        num_groups=32, epsilon=GROUP_NORM_EPS, dtype=dtype, use_fast_variance=False, name=name
    )
