"""ViTamin, a tower of convolutions and then transformer blocks, and UniTok's decoder, its mirror.

ViTamin is arXiv 2404.02132. Convolutions pad symmetrically and are followed by the exact GELU, MLPs
have its tanh form; norms are over channels. There is no position table: convolutions tell places.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.unitok.config import UniTokConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.convolutional import Upsample, conv
from toklip_jax.nn.norms import layer_norm
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.activations import activation
from toklip_jax.ops.depthwise import depthwise_conv

EPS = 1e-6  # of both towers' norms
EXPANSION = 4  # hidden channels of a convolutional block to its width
RESAMPLINGS = ("none", "down", "up")

gelu = activation("gelu_erf")


class Encoder(nn.Module):
    """Encodes images as tokens of a sixteenth of the resolution."""

    config: UniTokConfig
    compute: Compute

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        config, dtype = self.config, self.compute.jax_dtype
        x = conv(config.channels[0], dtype, "stem_0", stride=2)(images)
        x = gelu(layer_norm(EPS, dtype, "stem_norm")(x))
        x = conv(config.channels[0], dtype, "stem_1")(x)
        for i, (width, depth) in enumerate(zip(config.channels, config.depths, strict=True)):
            for j in range(depth):
                resampling = "none" if j else "down"
                x = MobileBlock(width, resampling, dtype, name=f"stages_{i}_block_{j}")(x)
        x = layer_norm(EPS, dtype, "embed_norm")(x)
        x = conv(config.width, dtype, "embed", stride=2)(x)
        x = x.reshape(len(x), -1, config.width)  # [b, n, d]
        x, _ = Stack(config.transformer, self.compute, name="stack")(x)
        return layer_norm(EPS, dtype, "norm")(x)


class Decoder(nn.Module):
    """Decodes tokens to images: the encoder's mirror, with blocks of its own number."""

    config: UniTokConfig
    compute: Compute

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, ...]
    ) -> Float[Array, "b h w 3"]:
        config, dtype = self.config, self.compute.jax_dtype
        channels = config.channels[::-1]
        x, _ = Stack(config.transformer, self.compute, name="stack")(tokens.astype(dtype))
        x = layer_norm(EPS, dtype, "norm")(x)
        x = x.reshape(len(x), *grid, config.width)  # [b, h, w, d]
        x = Upsample(dtype, channels[0], name="unembed")(x)
        for i, (width, depth) in enumerate(zip(channels, config.up_depths, strict=True)):
            for j in range(depth):
                resampling = "none" if j else "up"
                x = MobileBlock(width, resampling, dtype, name=f"stages_{i}_block_{j}")(x)
        x = Upsample(dtype, name="stem_0")(x)
        x = gelu(layer_norm(EPS, dtype, "stem_norm")(x))
        return conv(3, dtype, "stem_1")(x)


class MobileBlock(nn.Module):
    """shortcut(x) + conv(gelu(depthwise(gelu(conv(norm(x)))))), four times as wide inside.

    Attributes:
        resampling: "down" halves the resolution: the depthwise convolution has stride 2, and the
            shortcut takes the mean of 3 x 3 pixels, of those within the image; "up" doubles it
            before the depthwise convolution, and "none" keeps it.
    """

    width: int
    resampling: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        assert self.resampling in RESAMPLINGS
        hidden, dtype = EXPANSION * self.width, self.dtype
        y = layer_norm(EPS, dtype, "norm")(x)
        y = gelu(conv(hidden, dtype, "expand", kernel=1)(y))
        if self.resampling == "up":
            y = Upsample(dtype, name="upsample")(y)
        stride = 2 if self.resampling == "down" else 1
        y = gelu(DepthwiseConv(stride, dtype, name="depthwise")(y))
        return conv(self.width, dtype, "reduce", kernel=1)(y) + self._shortcut(x)

    def _shortcut(self, x):
        if self.resampling == "up":
            return Upsample(self.dtype, self.width, name="shortcut")(x)
        if self.resampling == "down":
            x = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)
        if x.shape[-1] == self.width:
            return x
        return conv(self.width, self.dtype, "shortcut", kernel=1)(x)


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel by itself."""

    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        c = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, 1, c))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        return depthwise_conv(x.astype(self.dtype), kernel, self.stride) + bias.astype(self.dtype)
