"""Emu3's vision tokenizer (arXiv 2409.18869): images and videos, four frames to one of ids.

Each frame passes through VQGAN's encoder alone; causal convolutions over time, with two frames of
zeros in front, follow. An image stands for four equal frames. They are equal up to the convolutions
over time, so that it is encoded once and repeated there. Of the four frames that a grid without
time is decoded to, the first is the image, and it alone passes through the two-dimensional decoder.
Both give what four frames give, for a quarter of the work.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.emu3.temporal import TemporalDecoder, TemporalEncoder
from toklip_jax.models.vq import VQModel
from toklip_jax.nn.convolutional import Decoder, Encoder, causal_conv
from toklip_jax.nn.quantisers import VectorQuantiser
from toklip_jax.ops.pixels import depth_to_space, space_to_depth
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

IN_TIME = (3, 1, 1)  # kernel of the convolutions beside the quantiser


class Emu3VQ(VQModel):
    """The nearest code by Euclidean distance, of raw vectors; every norm of the decoder sees codes.

    Images are [b, h, w, 3], videos [b, t, h, w, 3]. A grid of ids is (height, width), or (time,
    height, width).
    """

    config: Emu3Config

    def setup(self):
        config, dtype = self.config, self.compute.vq_jax_dtype
        sizes = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "num_res_blocks": config.num_res_blocks,
            "attention_levels": config.attention_levels,
            "dtype": dtype,
        }
        in_time = config.temporal_levels, config.num_res_blocks, dtype
        self.encoder = Encoder(z_channels=config.z_channels, **sizes)
        self.encoder_time = TemporalEncoder(*in_time)
        self.quant_conv = causal_conv(config.code_dim, IN_TIME, dtype, None)
        self.quantiser = VectorQuantiser(config.codebook_size, config.codebook_dim)
        # Its parameters are the tokenizer's own, as in other families.
        nn.share_scope(self, self.quantiser)
        self.post_quant_conv = causal_conv(config.z_channels, IN_TIME, dtype, None)
        self.decoder_time = TemporalDecoder(*in_time)
        self.decoder = Decoder(out_channels=3 * config.stem_patch**2, **sizes)

    def _encode(self, images: Float[Array, "b *size 3"], is_training: bool = False):
        return self.quant_conv(self.encoder_time(self._encode_frames(images), is_training))

    def _encode_frames(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b t h w c"]:
        frames = images.reshape(-1, *images.shape[-3:])
        x = self.encoder(space_to_depth(frames, self.config.stem_patch))
        if images.ndim == 5:
            return x.reshape(*images.shape[:2], *x.shape[1:])
        return x[:, None].repeat(self.config.temporal_factor, axis=1)

    def _decode(self, code_vectors, grid, is_training: bool = False):
        b, _, c = code_vectors.shape
        is_image = len(grid) == 2
        codes = code_vectors.reshape(b, *((1, *grid) if is_image else grid), c)  # [b, t, h, w, c]
        codes = constrain(codes, BATCH_AXES, *(None,) * 4).astype(self.compute.vq_jax_dtype)
        # Codes go through the convolutions over time beside what is decoded, to condition norms;
        # batch norms see both. Pairs stand together, so that rows stay on their devices.
        pairs = jnp.stack([self.post_quant_conv(codes), codes], axis=1)  # [b, 2, t, h, w, c]
        pairs = self.decoder_time(pairs.reshape(2 * b, *pairs.shape[2:]), is_training)
        pairs = pairs.reshape(b, 2, *pairs.shape[1:])
        pairs = pairs[:, :, :1] if is_image else pairs
        t, h, w = pairs.shape[2:5]
        x, codes = (pairs[:, i].reshape(b * t, h, w, -1) for i in range(2))
        frames = depth_to_space(self.decoder(x, codes).astype(jnp.float32), self.config.stem_patch)
        return frames if is_image else frames.reshape(b, t, *frames.shape[1:])

    def _latents_in_training(self, images):
        return self._latents(images, is_training=True)

    def _decode_in_training(self, code_vectors, grid):
        return self._decode(code_vectors, grid, is_training=True)
