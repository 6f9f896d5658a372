"""The convolutional VQ tokenizers: VQGAN's encoder and decoder around any quantiser."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import VQConfig
from toklip_jax.models.vq import VQModel
from toklip_jax.nn.convolutional import Decoder, Encoder, conv
from toklip_jax.nn.quantisers import Quantiser
from toklip_jax.ops.grids import image_grid
from toklip_jax.ops.pixels import depth_to_space, space_to_depth
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


@dataclasses.dataclass(frozen=True)
class OneCodebook:
    """A codebook, of which each place of the grid has one code.

    Attributes:
        codebook_size: number of codes.
        codebook_dim: length of a code vector.
    """

    codebook_size: int = 16_384
    codebook_dim: int = 8

    codes_per_place = 1

    def __post_init__(self):
        _check_positive(self, "codebook_size", "codebook_dim")

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    @property
    def code_dim(self) -> int:
        return self.codebook_dim


@dataclasses.dataclass(frozen=True)
class ConvolutionalSizes:
    """Sizes of an encoder and a decoder, whatever quantiser stands between them.

    The defaults are LlamaGen's VQ-16's.

    Attributes:
        channels: width of the convolutions at full resolution.
        multipliers: factors of `channels`, level by level; each level but the last halves the
            resolution.
        num_res_blocks: blocks in an encoder's level; the decoder's have one more.
        z_channels: channels of the encoder's output, before the 1x1 convolution to code vectors.
        stem_patch: space-to-depth factor before the first convolution and after the last; 1 in
            all released weights. 2 or 4 makes small images cheap on CPUs.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    stem_patch: int = 1

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        _check_positive(self, "channels", "num_res_blocks", "z_channels")
        if not self.multipliers or min(*self.multipliers, self.stem_patch) < 1:
            raise UserError(
                f"expected multipliers and a stem_patch of at least 1, got {self.multipliers} and "
                f"{self.stem_patch}"
            )
        if self.channels % 32:
            raise UserError(
                f"expected channels divisible by 32 (the group norm's groups), got {self.channels}"
            )
        if any(field.name == "attention_levels" for field in dataclasses.fields(self)):
            levels = resolved_levels(self.attention_levels, len(self.multipliers))
            object.__setattr__(self, "attention_levels", levels)

    licence = ""
    has_decoder = True

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels with attention, counted from the highest resolution; may be a field instead."""
        return (len(self.multipliers) - 1,)

    @property
    def decoder_width(self) -> int:
        """Width of the decoder's convolutions at full resolution."""
        return self.channels

    @property
    def downsample(self) -> int:
        """Pixels of a place's side."""
        return self.stem_patch * 2 ** (len(self.multipliers) - 1)

    @property
    def smallest_size(self) -> tuple[int, int]:
        return self.downsample, self.downsample

    def grid_of(self, *size: int) -> tuple[int, int]:
        """Returns (height, width) of the grid of ids of an image of this height and width.

        Raises:
            ValueError: the down-sampling does not divide the sides, or it is no image's size.
        """
        return image_grid(size, self.downsample)


@dataclasses.dataclass(frozen=True)
class ConvolutionalVQConfig(ConvolutionalSizes, OneCodebook):
    """Sizes of a convolutional tokenizer with one codebook, whose fields come first."""

    def __post_init__(self):
        OneCodebook.__post_init__(self)
        ConvolutionalSizes.__post_init__(self)


def resolved_levels(levels: Sequence[int], count: int) -> tuple[int, ...]:
    """Returns levels of resolution in their order, all counted from the highest.

    Args:
        levels: counted from the highest resolution, or from the lowest as -1, -2, ...
        count: how many levels there are.

    Raises:
        ValueError: there is no such level.
    """
    if any(not -count <= level < count for level in levels):
        raise UserError(
            f"expected attention_levels from {-count} to {count - 1}, as there are {count} "
            f"multipliers, got {tuple(levels)}"
        )
    return tuple(sorted({level % count for level in levels}))


def vq_inputs(config: VQConfig) -> tuple[jax.ShapeDtypeStruct]:
    """Returns the shape of what initialisation runs a tokenizer of images on."""
    return (jax.ShapeDtypeStruct((1, *config.smallest_size, 3), jnp.float32),)


class ConvolutionalVQ(VQModel):
    """Encoder, 1x1 convolution, quantiser, 1x1 convolution, decoder."""

    config: ConvolutionalSizes

    def setup(self):
        config, dtype = self.config, self.compute.vq_jax_dtype
        sizes = {
            "multipliers": config.multipliers,
            "num_res_blocks": config.num_res_blocks,
            "attention_levels": config.attention_levels,
            "dtype": dtype,
        }
        self.encoder = Encoder(channels=config.channels, z_channels=config.z_channels, **sizes)
        self.quant_conv = conv(config.code_dim, dtype, None, kernel=1)
        self.quantiser = self._build_quantiser()
        # Its parameters are the tokenizer's own, as they have always been in files.
        nn.share_scope(self, self.quantiser)
        self.post_quant_conv = conv(config.z_channels, dtype, None, kernel=1)
        if config.has_decoder:
            out_channels = 3 * config.stem_patch**2
            self.decoder = Decoder(
                channels=config.decoder_width, out_channels=out_channels, **sizes
            )

    def _build_quantiser(self) -> Quantiser:
        raise NotImplementedError

    def _encode(self, images: Float[Array, "b h w 3"]):
        return self.quant_conv(self.encoder(space_to_depth(images, self.config.stem_patch)))

    def _decode(self, code_vectors, grid):
        b, _, c = code_vectors.shape
        x = code_vectors.reshape(b, *grid, c)  # [b, h, w, c]
        x = constrain(x, BATCH_AXES, None, None, None)
        x = self.post_quant_conv(x)
        if not self.config.has_decoder:
            return self._without_decoder(b, [self.config.downsample * side for side in grid])
        x = self.decoder(x).astype(jnp.float32)
        return depth_to_space(x, self.config.stem_patch)


def _check_positive(config, *names):
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"expected a {name} of at least 1, got {getattr(config, name)}")
