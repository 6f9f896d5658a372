"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525): convolutional, with an L2-normalised codebook."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.models.base import VQOutput
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.convolutional import Decoder, Encoder, conv
from toklip_jax.nn.quantisers import VectorQuantiser
from toklip_jax.ops.grids import square_grid
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class LlamaGenVQ(nn.Module):
    """Encoder, quantiser, decoder. Interface: `models.base.VQConfig`."""

    config: LlamaGenConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.vq_jax_dtype
        sizes = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "num_res_blocks": config.num_res_blocks,
            "dtype": dtype,
        }
        self.encoder = Encoder(z_channels=config.z_channels, **sizes)
        self.quant_conv = conv(config.codebook_dim, dtype, None, kernel=1)
        self.quantiser = VectorQuantiser(
            config.codebook_size, config.codebook_dim, config.is_l2_normalised
        )
        # The codebook is the tokenizer's own parameter, as it has always been in files.
        nn.share_scope(self, self.quantiser)
        self.post_quant_conv = conv(config.z_channels, dtype, None, kernel=1)
        self.decoder = Decoder(out_channels=3 * config.stem_patch**2, **sizes)

    def __call__(self, images: Float[Array, "b h w 3"]) -> VQOutput:
        """Reconstructs through the quantiser; decoder gradients pass straight to the encoder."""
        latents, grid = self._latents(images)
        quantised = self.quantiser.train(latents)
        restored = self._decode(quantised.vectors, grid)
        losses = self.quantiser.row_losses(quantised)
        return VQOutput(restored, quantised.ids, quantised.latents, losses)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b n"]:
        """Returns the id of each place of the grid, row by row, int32."""
        return self.quantiser.encode(self._latents(images)[0])

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns the images' code vectors, float32; gradients pass straight to the encoder."""
        return self.quantiser.train(self._latents(images)[0]).vectors

    def latents(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns what the search compares with the codes, float32."""
        return self.quantiser.normalise(self._latents(images)[0])

    def code_vectors(self, ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors, float32, at unit length where the config says so."""
        return self.quantiser.lookup(ids)

    def detokenize(
        self, ids: Int[Array, "b n"], grid: tuple[int, int] | None = None
    ) -> Float[Array, "b h w 3"]:
        """Returns images, float32, nominally in [-1, 1]; of a square grid unless told.

        Raises:
            ValueError: n is not a square number and no grid was given.
        """
        return self._decode(self.code_vectors(ids), grid or square_grid(ids.shape[1]))

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns the losses that compare rows: see `nn.quantisers.VectorQuantiser`."""
        return self.quantiser.between_rows(latents, mask)

    def _latents(self, images):
        """The encoder's output before the quantiser [b, n, c], and the grid."""
        grid = self.config.grid_of(*images.shape[1:3])
        images = constrain(images, BATCH_AXES, None, None, None)
        # Accelerators round float32 products to bfloat16 by default, which would change ids.
        precision = "highest" if self.compute.vq_dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            x = self.quant_conv(self.encoder(space_to_depth(images, self.config.stem_patch)))
        return x.reshape(len(x), -1, x.shape[-1]), grid  # [b, n, c]

    def _decode(self, code_vectors, grid):
        b, _, c = code_vectors.shape
        x = code_vectors.reshape(b, *grid, c)  # [b, h, w, c]
        x = constrain(x, BATCH_AXES, None, None, None)
        x = self.decoder(self.post_quant_conv(x)).astype(jnp.float32)
        return depth_to_space(x, self.config.stem_patch)


def space_to_depth(images: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Folds patch x patch pixels into channels; `depth_to_space` unfolds them."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, c * patch**2)


def depth_to_space(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Unfolds channels into patch x patch pixels."""
    b, h, w, c = x.shape
    c //= patch**2
    x = x.reshape(b, h, w, patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, c)
