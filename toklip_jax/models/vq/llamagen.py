"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525): convolutional, with an L2-normalised codebook."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.models.config import Compute, square_side
from toklip_jax.models.vq.base import VQOutput
from toklip_jax.models.vq.blocks import Decoder, Encoder, conv
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.sharding import BATCH_AXES, constrain, on_rows


@dataclasses.dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes of the tokenizer; the defaults are VQ-16's.

    Attributes:
        codebook_size: number of codes.
        codebook_dim: length of a code vector.
        is_l2_normalised: latents and codes are compared, and handed on, at unit length.
        channels: width of the convolutions at full resolution.
        multipliers: of `channels`, level by level; each level but the last halves the resolution.
        num_res_blocks: of an encoder's level; the decoder's have one more.
        z_channels: of the encoder's output, before the 1x1 convolution to `codebook_dim`.
        stem_patch: space-to-depth factor before the first convolution and after the last; 1 in
            all released weights. 2 or 4 makes small images cheap on CPUs.
    """

    codebook_size: int = 16_384
    codebook_dim: int = 8
    is_l2_normalised: bool = True
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    stem_patch: int = 1

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if self.channels % 32:
            raise ValueError(
                f"expected channels divisible by 32 (the group norm's groups), got {self.channels}"
            )

    @property
    def downsample(self) -> int:
        return self.stem_patch * 2 ** (len(self.multipliers) - 1)

    @property
    def code_dim(self) -> int:
        return self.codebook_dim

    def build(self, compute: Compute) -> "LlamaGenVQ":
        return LlamaGenVQ(self, compute)


class LlamaGenVQ(nn.Module):
    """Encoder, codebook, decoder. Interface: `VQConfig`."""

    config: LlamaGenConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.vq_jax_dtype
        sizes = (config.channels, config.multipliers, config.num_res_blocks)
        self.encoder = Encoder(*sizes, config.z_channels, dtype)
        self.quant_conv = conv(config.codebook_dim, dtype, None, kernel=1)
        self.codebook = self.param(
            "codebook", self._init_codebook, (config.codebook_size, config.codebook_dim)
        )
        self.post_quant_conv = conv(config.z_channels, dtype, None, kernel=1)
        self.decoder = Decoder(*sizes, 3 * config.stem_patch**2, dtype)

    def __call__(self, images: Float[Array, "b h w 3"]) -> VQOutput:
        """Reconstructs through the quantiser; decoder gradients pass straight to the encoder."""
        latents, grid = self.latents(images)
        ids = self._nearest(latents)
        codes = self.code_vectors(ids)
        straight = latents + jax.lax.stop_gradient(codes - latents)
        return VQOutput(self.decode(straight, grid), ids, latents, codes, self._codes())

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b n"]:
        """Returns the id of each cell of the grid, row by row, int32."""
        return self._nearest(self.latents(images)[0])

    def code_vectors(self, ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors, float32, at unit length where the config says so."""
        return self._handed_on(jnp.take(self.codebook, ids, axis=0))

    def detokenize(
        self, ids: Int[Array, "b n"], grid: tuple[int, int] | None = None
    ) -> Float[Array, "b h w 3"]:
        """Returns images, float32, nominally in [-1, 1]; of a square grid unless told.

        Raises:
            ValueError: n is not a square number and no grid was given.
        """
        grid = grid or (square_side(ids.shape[1]),) * 2
        return self.decode(self.code_vectors(ids), grid)

    def latents(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b n c"], tuple[int, int]]:
        """Returns what the search compares with the codes, float32, and the grid (h, w).

        Raises:
            ValueError: `downsample` does not divide the images' sides.
        """
        b, height, width, _ = images.shape
        factor = self.config.downsample
        if height % factor or width % factor:
            raise ValueError(
                f"expected image sides divisible by {factor}, got {height}x{width}: resize them"
            )
        images = constrain(images, BATCH_AXES, None, None, None)
        # Accelerators round float32 products to bfloat16 by default, which would change ids.
        precision = "highest" if self.compute.vq_dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            x = self.quant_conv(self.encoder(space_to_depth(images, self.config.stem_patch)))
        grid = (height // factor, width // factor)
        return self._handed_on(x.reshape(b, -1, x.shape[-1])), grid  # [b, n, c]

    def decode(
        self, code_vectors: Float[Array, "b n c"], grid: tuple[int, int]
    ) -> Float[Array, "b h w 3"]:
        """Returns images, float32, from code vectors on a grid of (h, w)."""
        x = code_vectors.reshape(-1, *grid, code_vectors.shape[-1])  # [b, h, w, c]
        x = constrain(x, BATCH_AXES, None, None, None)
        x = self.decoder(self.post_quant_conv(x)).astype(jnp.float32)
        return depth_to_space(x, self.config.stem_patch)

    def _nearest(self, latents):
        def search(latents, codes):
            b, n, c = latents.shape
            return nearest_code(latents.reshape(-1, c), codes).reshape(b, n)

        return on_rows(search, *jax.lax.stop_gradient((latents, self._codes())))

    def _codes(self):
        return self._handed_on(self.codebook)

    def _handed_on(self, vectors):
        vectors = vectors.astype(jnp.float32)
        return l2_normalize(vectors) if self.config.is_l2_normalised else vectors

    def _init_codebook(self, key, shape):
        bound = 1 / shape[0]
        codes = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        return l2_normalize(codes) if self.config.is_l2_normalised else codes


def space_to_depth(images: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Folds patch x patch pixels into channels; `depth_to_space` unfolds them."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, -1)


def depth_to_space(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Unfolds channels into patch x patch pixels."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, -1)
