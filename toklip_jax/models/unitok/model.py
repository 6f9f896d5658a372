"""UniTok (arXiv 2502.20321): several codebooks between a ViTamin encoder and its mirror."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.models.unitok.config import UniTokConfig
from toklip_jax.models.unitok.projection import AttentionProjection
from toklip_jax.models.unitok.vitamin import EPS, Decoder, Encoder
from toklip_jax.models.vq import VQModel
from toklip_jax.nn.norms import layer_norm
from toklip_jax.nn.quantisers import SeveralCodebooks
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class UniTok(VQModel):
    """Encoder, projection, quantiser, projection, decoder; and a head on the second projection.

    As in the original, the projections compute in float32 whatever the type of the towers. Its
    drop path, which training alone had, is left out.
    """

    config: UniTokConfig

    def setup(self):
        config = self.config
        compute = dataclasses.replace(self.compute, dtype=self.compute.vq_dtype)
        heads = {"num_heads": config.width // config.code_dim, "is_causal": config.is_causal}
        self.encoder = Encoder(config, compute)
        self.quant_proj = AttentionProjection(config.code_dim, **heads)
        self.quantiser = SeveralCodebooks(
            config.num_codebooks, config.codebook_size, config.codebook_dim
        )
        self.post_quant_proj = AttentionProjection(config.width, **heads)
        self.decoder = Decoder(config, compute)
        if config.feature_dim:
            self.feature_norm = layer_norm(EPS, jnp.dtype("float32"), None)
            self.feature_proj = nn.Dense(config.feature_dim)

    def image_features(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns UniTok's own features of images, float32, not normalised.

        They are the mean of the places' quantised tokens, normalised and projected; UniTok trains
        them by contrast with texts. Neither reconstruction nor TokLIP uses them.

        Raises:
            ValueError: the config has no `feature_dim`.
        """
        if not self.config.feature_dim:
            raise UserError(
                "expected weights with UniTok's head (fc_norm and projection), got none of it: "
                "take the file of the whole model"
            )
        return self._feature(self.post_quant_proj(self.code_vectors(self.tokenize(images))))

    def _feature(self, tokens):
        return self.feature_proj(self.feature_norm(jnp.mean(tokens, axis=1)))

    def _encode(self, images: Float[Array, "b h w 3"]):
        return self.quant_proj(self.encoder(images))

    def _decode(self, code_vectors, grid):
        tokens = self.post_quant_proj(constrain(code_vectors, BATCH_AXES, None, None))
        if self.is_initializing() and self.config.feature_dim:
            self._feature(tokens)  # makes its parameters
        return self.decoder(tokens, grid).astype(jnp.float32)
