"""TokLIP: a VQ tokenizer, the token encoder on its codes, and a text tower."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import family_of
from toklip_jax.models.siglip.text_tower import TextTower
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.token_encoder import (
    TokenEncoder,
    check_causal,
    init_encoder_cache,
)
from toklip_jax.nn.cache import KVCache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.pooling import first_tokens, single_tokens

INITIAL_LOGIT_SCALE = float(np.log(1 / 0.07))  # CLIP's temperature
INITIAL_LOGIT_BIAS = -10.0  # SigLIP, section 3.2


class TokLIP(nn.Module):
    """Everything right of `ids` works from ids alone: no pixels and no VQ encoder."""

    config: TokLIPConfig
    compute: Compute

    def setup(self):
        self.vq = family_of(self.config.vq).build(self.config.vq, self.compute)
        self.token_encoder = TokenEncoder(self.config.vision, self.compute)
        self.text_tower = TextTower(self.config.text, self.compute)
        constant = nn.initializers.constant
        self.logit_scale = self.param("logit_scale", constant(INITIAL_LOGIT_SCALE), ())
        if self.config.has_logit_bias:
            self.logit_bias = self.param("logit_bias", constant(INITIAL_LOGIT_BIAS), ())

    def __call__(self, images: Float[Array, "b *size 3"], token_ids: Int[Array, "b t"]):
        """Runs every parameter: what initialisation calls."""
        output = self.vq(images)
        return output, self.image_features(output.ids), self.text_features(token_ids)

    def tokenize(self, images: Float[Array, "b *size 3"]) -> Int[Array, "b n *q"]:
        """Returns ids, int32, of RGB images in [-1, 1]."""
        return self.vq.tokenize(images)

    def detokenize(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b *size 3"]:
        """Returns images, float32, nominally in [-1, 1]."""
        return self.vq.detokenize(ids, self.config.vision.grid)

    def encode(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b n c"]:
        """Returns code vectors, float32; gradients pass straight to the VQ encoder."""
        return self.vq.encode(images)

    def code_vectors(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors, float32, as the token encoder sees them."""
        return self.vq.code_vectors(ids)

    def semantic_tokens(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b n d"]:
        """Returns the tokens after the final norm: what a language model consumes."""
        return self.token_encoder.tokens(self._code_vectors(ids))

    def prefix_tokens(self, code_vectors: Float[Array, "b m c"]) -> Float[Array, "b m d"]:
        """Returns the semantic tokens of an image's first m places, of their code vectors.

        Raises:
            ValueError: attention is not causal, or m is more than all places.
        """
        return self.token_encoder.prefix_tokens(code_vectors.astype(self.compute.jax_dtype))

    def semantic_step(
        self, ids: Int[Array, "b *q"], position: Any, cache: KVCache
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the semantic token at one position, and the cache with it.

        One by one these are the tokens of `semantic_tokens`, which is what a generator needs that
        draws ids one by one.

        Args:
            ids: those of one place.
            position: place in the grid, row by row; an int32 scalar or [b].
            cache: the cache from `init_semantic_cache` or from an earlier step.

        Raises:
            ValueError: attention is not causal, or a position outside `jit` is past the grid.
        """
        code_vector = self._code_vectors(ids[:, None])[:, 0]
        return self.token_encoder.step(code_vector, position, cache)

    def semantic_extend(
        self, ids: Int[Array, "b m *q"], positions: Int[Any, "b m"], cache: KVCache
    ) -> tuple[Float[Array, "b m d"], KVCache]:
        """Returns the semantic tokens at m positions, and the cache with them.

        Args:
            positions: places in the grid, row by row; negative for padding.

        Raises:
            ValueError: as `semantic_step`, or the cache is too small.
        """
        return self.token_encoder.extend(self._code_vectors(ids), positions, cache)

    @nn.nowrap
    def init_semantic_cache(self, batch_size: int, dtype: DTypeLike | None = None) -> KVCache:
        """Returns an empty cache for `semantic_step`, by default in the type of the activations.

        Raises:
            ValueError: attention is not causal.
        """
        return init_encoder_cache(self.config.vision, self.compute, batch_size, dtype)

    def tokens_from_code_vectors(
        self, code_vectors: Float[Array, "b n c"]
    ) -> Float[Array, "b n d"]:
        """Returns the tokens of code vectors, through which gradients pass."""
        return self.token_encoder.tokens(code_vectors.astype(self.compute.jax_dtype))

    def features_from_code_vectors(
        self, code_vectors: Float[Array, "b n c"]
    ) -> Float[Array, "b d"]:
        """Returns the pooled feature of code vectors, not normalised."""
        return self.token_encoder(code_vectors.astype(self.compute.jax_dtype))

    def pool_tokens(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Returns the pooled feature of `tokens`, not normalised."""
        return self.token_encoder.pool(tokens)

    def image_features(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b d"]:
        """Returns the pooled feature, not normalised."""
        return self.token_encoder(self._code_vectors(ids))

    def prefix_features(
        self, ids: Int[Array, "b n *q"], counts: tuple[int, ...]
    ) -> Float[Array, "b k d"]:
        """Returns the features that the first `counts` ids give, not normalised.

        The token encoder runs once: under a causal mask, a token depends on its prefix alone.

        Raises:
            ValueError: attention is not causal, or a count is out of range.
        """
        config = self.config.vision
        check_causal(config)
        if not counts or not all(1 <= count <= config.num_tokens for count in counts):
            raise UserError(f"expected counts in [1, {config.num_tokens}], got {counts}")
        tokens = self.semantic_tokens(ids)
        pooled = [self.pool_tokens(first_tokens(tokens, k, config.pool)) for k in counts]
        return jnp.stack(pooled, axis=1)

    def token_features(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b n d"]:
        """Returns the feature that each token gives when it is pooled alone, not normalised.

        They share the space of `text_features`, and so show where in an image a text is.
        """
        tokens = self.semantic_tokens(ids)
        features = self.pool_tokens(single_tokens(tokens, self.config.vision.pool))
        return features.reshape(tokens.shape)

    def text_features(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Returns text features, not normalised."""
        return self.text_tower(token_ids)

    def text_tokens(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Returns the text tower's tokens after its final norm."""
        return self.text_tower(token_ids, is_pooled=False)

    def _code_vectors(self, ids):
        vectors = self.vq.code_vectors(ids)
        return jax.lax.stop_gradient(vectors).astype(self.compute.jax_dtype)


def similarity(
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "t d"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""] | None = None,
) -> Float[Array, "b t"]:
    """Returns logits exp(logit_scale) x y^T + logit_bias of normalised features, float32."""
    scaled = jnp.exp(logit_scale) * image_features
    logits = jnp.matmul(scaled, text_features.T, precision="highest")
    return logits if logit_bias is None else logits + logit_bias
