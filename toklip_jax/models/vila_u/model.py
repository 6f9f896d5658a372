"""VILA-U's tokenizer: SigLIP without its last block, a residual quantiser, VQGAN's decoder."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import VQOutput
from toklip_jax.models.vila_u.config import VilaUConfig
from toklip_jax.models.vq import VQModel
from toklip_jax.nn.config import Compute
from toklip_jax.nn.convolutional import Decoder, conv
from toklip_jax.nn.quantisers import ResidualQuantiser
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.resample import resize_images
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class VilaUVQ(VQModel):
    """SigLIP's tokens are the latents as they are; several codes stand for each.

    The published decoder casts its weights and inputs to bfloat16, whatever the rest computes in;
    here it computes in the type that the caller chose.
    """

    config: VilaUConfig

    def setup(self):
        config, dtype = self.config, self.compute.vq_jax_dtype
        self.encoder = Encoder(
            config, dataclasses.replace(self.compute, dtype=self.compute.vq_dtype)
        )
        self.quantiser = ResidualQuantiser(
            config.codebook_size,
            config.width,
            config.codes_per_place,
            config.is_shared,
            has_padding_row=True,
        )
        if config.has_decoder:
            self.post_quant_conv = conv(config.z_channels, dtype, None, kernel=1)
            self.decoder = Decoder(
                channels=config.channels,
                multipliers=config.multipliers,
                num_res_blocks=config.num_res_blocks,
                attention_levels=config.attention_levels,
                out_channels=3,
                dtype=dtype,
            )

    def __call__(self, images: Float[Array, "b h w 3"]) -> VQOutput:
        """Reconstructs through the quantiser; decoder gradients pass straight to the encoder.

        Raises:
            ValueError: the config's decoder gives images of another size.
        """
        size = self.config.decoded_size
        if images.shape[1:3] != size and not self.is_initializing():
            raise UserError(
                f"expected images of the size {size} that the decoder gives, got "
                f"{images.shape[1:3]}: they can be tokenized, but not compared with what is "
                f"decoded; resize them, or change decoder_grid"
            )
        return super().__call__(images)

    def _encode(self, images: Float[Array, "b h w 3"]):
        return self.encoder(images)

    def _decode(self, code_vectors, grid):
        config = self.config
        if not config.has_decoder:
            return self._without_decoder(code_vectors.shape[0], config.decoded_size)
        x = code_vectors.reshape(code_vectors.shape[0], *grid, -1)  # [b, h, w, c]
        if config.decoder_grid is not None:
            if tuple(grid) != config.grid:
                raise UserError(
                    f"expected ids of the grid {config.grid}, which are resized before they are "
                    f"decoded, got {tuple(grid)}: decode whole images"
                )
            x = resize_images(x, config.decoder_grid, config.decoder_grid)
        x = constrain(x, BATCH_AXES, None, None, None)
        return self.decoder(self.post_quant_conv(x)).astype(jnp.float32)


class Encoder(nn.Module):
    """SigLIP's image tower up to its last block but one: no final norm, no pooling."""

    config: VilaUConfig
    compute: Compute

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        config, dtype = self.config, self.compute.jax_dtype
        patch = (config.patch_size, config.patch_size)
        embed = nn.Conv(
            config.width, patch, patch, padding="VALID", dtype=dtype, name="patch_embed"
        )
        x = embed(images)
        b, h, w, d = x.shape
        init = nn.initializers.normal(d**-0.5)
        positions = self.param("pos_embed", init, (h * w, d))
        x = x.reshape(b, h * w, d) + positions.astype(dtype)
        return Stack(config.encoder, self.compute, name="stack")(x)[0]
