"""Open-MAGVIT2 (arXiv 2409.04410): convolutional, without attention, with signs as codes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.models.magvit2.config import Magvit2Config
from toklip_jax.models.vq import VQModel
from toklip_jax.nn.convolutional import GROUP_NORM_EPS, ResBlock, conv, group_norm
from toklip_jax.nn.quantisers import SignQuantiser
from toklip_jax.ops.pixels import depth_to_space, space_to_depth
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

NUM_GROUPS = 32  # as all group norms here have
VARIANCE_EPS = 1e-6  # added to the codes' variance before the square root


class Magvit2VQ(VQModel):
    """Encoder, signs, decoder; the encoder's output is quantised as it is."""

    config: Magvit2Config

    def setup(self):
        config, dtype = self.config, self.compute.vq_jax_dtype
        sizes = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "num_res_blocks": config.num_res_blocks,
            "dtype": dtype,
        }
        self.encoder = Encoder(z_channels=config.z_channels, **sizes)
        self.quantiser = SignQuantiser(config.z_channels)
        self.decoder = Decoder(out_channels=3 * config.stem_patch**2, **sizes)

    def _encode(self, images: Float[Array, "b h w 3"]):
        return self.encoder(space_to_depth(images, self.config.stem_patch))

    def _decode(self, code_vectors, grid):
        b, n, c = code_vectors.shape
        if n == 1 and not self.is_initializing():
            raise UserError(
                f"expected a grid of at least two places to decode, got {grid}, as the decoder "
                f"needs the variance of codes over places: take larger images"
            )
        x = code_vectors.reshape(b, *grid, c)  # [b, h, w, c]
        x = constrain(x, BATCH_AXES, None, None, None)
        return depth_to_space(self.decoder(x).astype(jnp.float32), self.config.stem_patch)


class Encoder(nn.Module):
    """Encodes images as latents: levels of residual blocks, of which all but the last downsample.

    Unlike VQGAN's (`nn.convolutional.Encoder`) it has no attention, its stride-2 convolutions are
    padded on all sides, its last convolution is 1x1, and the others but for down-sampling have no
    biases.
    """

    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W z"]:
        x = conv(self.channels, self.dtype, "conv_in", has_bias=False)(x)
        last = len(self.multipliers) - 1
        for i, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            x = res_blocks(x, width, self.num_res_blocks, f"levels_{i}", self.dtype)
            if i != last:
                x = conv(width, self.dtype, f"levels_{i}_downsample", stride=2)(x)
        x = res_blocks(x, width, self.num_res_blocks, "mid", self.dtype)
        x = jax.nn.swish(group_norm(self.dtype, "norm_out")(x))
        return conv(self.z_channels, self.dtype, "conv_out", kernel=1)(x)


class Decoder(nn.Module):
    """Decodes codes to images: the encoder's mirror, each level of which begins with `CodeNorm`.

    Its modules' names count levels from the lowest resolution.
    """

    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    out_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, codes: Float[Array, "b h w z"]) -> Float[Array, "b H W c"]:
        width, last = self.channels * self.multipliers[-1], len(self.multipliers) - 1
        x = conv(width, self.dtype, "conv_in")(codes)
        x = res_blocks(x, width, self.num_res_blocks, "mid", self.dtype)
        for i, multiplier in enumerate(reversed(self.multipliers)):
            width = self.channels * multiplier
            x = CodeNorm(self.dtype, name=f"levels_{i}_norm")(x, codes)
            x = res_blocks(x, width, self.num_res_blocks, f"levels_{i}", self.dtype)
            if i != last:
                x = depth_to_space(conv(4 * width, self.dtype, f"levels_{i}_upsample")(x), 2)
        x = jax.nn.swish(group_norm(self.dtype, "norm_out")(x))
        return conv(self.out_channels, self.dtype, "conv_out")(x)


class CodeNorm(nn.Module):
    """Normalises in groups, then scales and shifts by statistics of the picture's codes.

    y = scale(sqrt(var + 1e-6)) norm(x) + shift(mean), with the mean and the unbiased variance of
    each number of the codes over all places, both maps linear.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], codes: Float[Array, "b H W z"]
    ) -> Float[Array, "b h w c"]:
        codes = codes.astype(jnp.float32)
        mean = jnp.mean(codes, axis=(1, 2))
        deviation = jnp.sqrt(jnp.var(codes, axis=(1, 2), ddof=1) + VARIANCE_EPS)
        normed = nn.GroupNorm(
            NUM_GROUPS,
            epsilon=GROUP_NORM_EPS,
            use_bias=False,
            use_scale=False,
            use_fast_variance=False,
            dtype=self.dtype,
            name="norm",
        )(x)
        scale, shift = (
            nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(of_codes)[:, None, None]
            for name, of_codes in (("scale", deviation), ("shift", mean))
        )
        return scale * normed + shift


def res_blocks(
    x: Float[Array, "b h w c"], width: int, count: int, name: str, dtype: jnp.dtype
) -> Float[Array, "b h w d"]:
    """Applies residual blocks without biases, named in the caller's scope."""
    for j in range(count):
        x = ResBlock(width, dtype, has_bias=False, name=f"{name}_res_{j}")(x)
    return x
