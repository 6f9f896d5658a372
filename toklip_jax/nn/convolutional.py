"""The convolutional encoder and decoder that VQGAN's descendants share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.nn.norms import GroupNorm
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

    Its modules' names count levels from the lowest resolution. If it is given codes, they condition
    every norm: see `ConditionedNorm`.

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
    def __call__(
        self, x: Float[Array, "b h w z"], codes: Float[Array, "b i j e"] | None = None
    ) -> Float[Array, "b H W c"]:
        x = conv(self.channels * self.multipliers[-1], self.dtype, "conv_in")(x)
        x = middle(x, self.dtype, codes)
        last = len(self.multipliers) - 1
        for i, multiplier in enumerate(reversed(self.multipliers)):
            width = self.channels * multiplier
            for j in range(self.num_res_blocks + 1):
                x = ResBlock(width, self.dtype, name=f"levels_{i}_res_{j}")(x, codes)
                if last - i in self.attention_levels:
                    x = AttentionBlock(self.dtype, name=f"levels_{i}_attn_{j}")(x, codes)
            if i != last:
                x = Upsample(self.dtype, name=f"levels_{i}_upsample")(x)
        x = jax.nn.swish(norm(x, self.dtype, "norm_out", codes))
        return conv(self.out_channels, self.dtype, "conv_out")(x)


def middle(
    x: Float[Array, "b h w c"],
    dtype: jnp.dtype,
    codes: Float[Array, "b i j e"] | None = None,
) -> Float[Array, "b h w c"]:
    """Applies a residual, an attention and a residual block, at the lowest resolution.

    Its modules are the caller's: they are named in its scope.
    """
    x = ResBlock(x.shape[-1], dtype, name="mid_res_0")(x, codes)
    x = AttentionBlock(dtype, name="mid_attn")(x, codes)
    return ResBlock(x.shape[-1], dtype, name="mid_res_1")(x, codes)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 shortcut where the width changes.

    Attributes:
        has_bias: whether its convolutions have biases.
    """

    width: int
    dtype: jnp.dtype
    has_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], codes: Float[Array, "b i j e"] | None = None
    ) -> Float[Array, "b h w d"]:
        to_width = functools.partial(conv, self.width, self.dtype, has_bias=self.has_bias)
        y = to_width("conv1")(jax.nn.swish(norm(x, self.dtype, "norm1", codes)))
        y = to_width("conv2")(jax.nn.swish(norm(y, self.dtype, "norm2", codes)))
        if x.shape[-1] != self.width:
            x = to_width("shortcut", kernel=1)(x)
        return x + y


class AttentionBlock(nn.Module):
    """Adds single-head attention over all places, with scale c^-0.5, to its input."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], codes: Float[Array, "b i j e"] | None = None
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = norm(x, self.dtype, "norm", codes)
        query, key, value = (
            conv(c, self.dtype, name, kernel=1)(y).reshape(b, h * w, 1, c)
            for name in ("q", "k", "v")
        )
        out = attention(query, key, value).reshape(b, h, w, c)
        return x + conv(c, self.dtype, "proj", kernel=1)(out)


def norm(
    x: Float[Array, "b h w c"],
    dtype: jnp.dtype,
    name: str,
    codes: Float[Array, "b i j e"] | None = None,
) -> Float[Array, "b h w c"]:
    """Applies a group norm, conditioned on codes if there are any, as a module of the caller's."""
    if codes is None:
        return group_norm(dtype, name)(x)
    return ConditionedNorm(dtype, name=name)(x, codes)


class ConditionedNorm(nn.Module):
    """norm(x) * scale(codes) + shift(codes), a group norm that sees codes (MoVQ, arXiv 2209.09002).

    Scale and shift are 1x1 convolutions of the codes, each of which stands for a patch of x: they
    are computed once a code, and repeated over its patch.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], codes: Float[Array, "b i j e"]
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        _, i, j, _ = codes.shape
        scale, shift = (
            conv(c, self.dtype, name, kernel=1)(codes).reshape(b, i, 1, j, 1, c)
            for name in ("scale", "shift")
        )
        patches = group_norm(self.dtype, "norm")(x).reshape(b, i, h // i, j, w // j, c)
        return (patches * scale + shift).reshape(b, h, w, c)


class Downsample(nn.Module):
    """Halves the resolution by a 3x3 convolution, padded at the right and the bottom only."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return conv(x.shape[-1], self.dtype, "conv", stride=2, padding="VALID")(x)


class Upsample(nn.Module):
    """Doubles the resolution by nearest neighbours, then applies a 3x3 convolution.

    Attributes:
        width: channels of the output; 0 keeps the input's.
    """

    dtype: jnp.dtype
    width: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        return DoublingConv(self.width or x.shape[-1], self.dtype, name="conv")(x)


class DoublingConv(nn.Module):
    """Doubles an image's resolution by nearest neighbours and convolves it with a 3x3 kernel.

    On CPUs both are one step, with 4/9 of the multiplications. Other platforms do one after the
    other: on a TPU the single step moves 1.5 times the bytes (by its compiler's count).

    Attributes:
        features: channels of the output.
        dtype: of the computation and the output.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return self._doubled(x.astype(self.dtype), kernel) + bias.astype(self.dtype)

    def _doubled(self, x, kernel):
        # A program for TPUs may be traced on a CPU; one that is traced elsewhere never runs on one.
        if jax.default_backend() != "cpu":
            return _doubled_first(x, kernel)
        return jax.lax.platform_dependent(x, kernel, cpu=_doubled_by_phases, default=_doubled_first)


def _doubled_first(x, kernel):
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return _convolved(x, kernel.astype(x.dtype), ((1, 1), (1, 1)))


def _doubled_by_phases(x, kernel):
    """The same in one step, without the doubled image.

    After doubling, each 3x3 window covers only 2x2 different pixels, which ones depends on whether
    its row and its column are even or odd. The taps that meet the same pixel are summed in float32.
    """
    kernel = kernel.astype(jnp.float32)
    (b, h, w, _), features = x.shape, kernel.shape[-1]
    rows = []
    for i, of_row in enumerate(_merged_taps(kernel, axis=0)):
        row = []
        for j, taps in enumerate(_merged_taps(of_row, axis=1)):
            padding = ((1 - i, i), (1 - j, j))  # even pixels see the one before, odd the one after
            row.append(_convolved(x, taps.astype(x.dtype), padding))
        rows.append(jnp.stack(row, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, features)


def _merged_taps(kernel, axis):
    """The two taps along an axis of three that even pixels see, then those that odd ones see."""
    first, middle, last = jnp.split(kernel, 3, axis)
    return (
        jnp.concatenate((first, middle + last), axis),
        jnp.concatenate((first + middle, last), axis),
    )


def _convolved(x, kernel, padding):
    form = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=form)


def conv(
    features: int,
    dtype: jnp.dtype,
    name: str | None,
    kernel: int = 3,
    stride: int = 1,
    padding: str | int | None = None,
    has_bias: bool = True,
) -> nn.Conv:
    """Returns a square convolution, by default zero-padded so that it keeps the resolution."""
    padding = kernel // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel,) * 2,
        stride,
        padding=padding,
        use_bias=has_bias,
        dtype=dtype,
        name=name,
    )


def group_norm(dtype: jnp.dtype, name: str) -> GroupNorm:
    """Returns a group norm of 32 groups."""
    return GroupNorm(32, GROUP_NORM_EPS, dtype, name=name)


def causal_conv(
    features: int,
    kernel: tuple[int, int, int],
    dtype: jnp.dtype,
    name: str | None,
    stride: int = 1,
) -> nn.Conv:
    """Returns a convolution over time and both sides, zero-padded.

    A frame of its output sees frames up to the last of those it replaces, and no later ones.

    Args:
        kernel: its size in (time, height, width).
        stride: in time.
    """
    time, *sides = kernel
    padding = ((time - stride, 0), *((side // 2, side // 2) for side in sides))
    return nn.Conv(features, kernel, (stride, 1, 1), padding=padding, dtype=dtype, name=name)
