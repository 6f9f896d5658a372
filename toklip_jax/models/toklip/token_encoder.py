"""The token encoder: code vectors in, tokens with CLIP-level meaning out (paper section 3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.nn.cache import KVCache, empty_cache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.norms import build_norm
from toklip_jax.nn.pooling import build_pool
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.activations import activation
from toklip_jax.ops.products import dot_general, promote_to

MAPPING_RATIO = 4  # hidden size of the mapping MLP, in widths


class TokenEncoder(nn.Module):
    """Mapping MLP, position table, (causal) blocks and final norm, with pooling after them.

    It knows code vectors only, not which VQ tokenizer they come from. All at once (`tokens`), some
    at a time (`extend`) or one at a time (`step`), a causal encoder gives the same tokens.
    """

    config: VisionConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.jax_dtype
        self.mapping = CodeMapping(config, dtype)
        init = nn.initializers.normal(config.width**-0.5)
        self.pos_embed = self.param("pos_embed", init, (config.num_tokens, config.width))
        self.stack = Stack(config, self.compute)
        self.norm = build_norm(config, dtype, None)
        self.pool = build_pool(config.pool, config, self.compute)

    def __call__(self, code_vectors: Float[Array, "b n c"]) -> Float[Array, "b d"]:
        """Returns the pooled image feature, not normalised."""
        return self.pool(self.tokens(code_vectors))

    def tokens(self, code_vectors: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        """Returns the tokens after the final norm: what a language model consumes.

        Raises:
            ValueError: n differs from the position table's.
        """
        check_num_tokens(code_vectors.shape[1], self.config)
        x = self.mapping(code_vectors) + self.pos_embed.astype(self.compute.jax_dtype)
        return self.norm(self.stack(x)[0])

    def prefix_tokens(self, code_vectors: Float[Array, "b m c"]) -> Float[Array, "b m d"]:
        """Returns the tokens of an image's first m places, which depend on those alone.

        Raises:
            ValueError: the encoder is not causal, or m is more than all places.
        """
        check_causal(self.config)
        m = code_vectors.shape[1]
        if m > self.config.num_tokens:
            check_num_tokens(m, self.config)
        table = self.pos_embed[:m].astype(self.compute.jax_dtype)
        return self.norm(self.stack(self.mapping(code_vectors) + table)[0])

    def step(
        self, code_vector: Float[Array, "b c"], position: Any, cache: KVCache
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the token at one position, after the final norm, and the cache with it.

        Args:
            position: place in the grid, row by row; an int32 scalar or [b].
            cache: the cache from `init_cache` or from an earlier step.

        Raises:
            ValueError: as `extend`.
        """
        _check_positions(position, self.config)
        positions = jnp.broadcast_to(jnp.asarray(position, jnp.int32), (len(code_vector),))
        tokens, cache = self.extend(code_vector[:, None], positions[:, None], cache)
        return tokens[:, 0], cache

    def extend(
        self, code_vectors: Float[Array, "b m c"], positions: Int[Any, "b m"], cache: KVCache
    ) -> tuple[Float[Array, "b m d"], KVCache]:
        """Returns the tokens at m positions, after the final norm, and the cache with them.

        A token sees what stands at its own and smaller positions, here and in the cache. Negative
        positions are padding; positions past the table give NaN where they can't be checked.

        Raises:
            ValueError: the encoder is not causal, a position outside `jit` is past the table, or
                the cache is too small.
        """
        check_causal(self.config)
        _check_positions(positions, self.config)
        positions = jnp.asarray(positions, jnp.int32)
        table = self.pos_embed.astype(self.compute.jax_dtype)
        x = self.mapping(code_vectors) + jnp.take(table, positions, axis=0)
        x, cache = self.stack(x, positions, cache=cache)
        return self.norm(x), cache

    @nn.nowrap
    def init_cache(self, batch_size: int, dtype: DTypeLike | None = None) -> KVCache:
        """Returns an empty cache for all positions, by default in the type of the activations.

        Raises:
            ValueError: the encoder is not causal.
        """
        return init_encoder_cache(self.config, self.compute, batch_size, dtype)


class CodeMapping(nn.Module):
    """Two linear layers from code vectors to the width, initialised as torch.nn.Linear is."""

    config: VisionConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, code_vectors: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        hidden = MAPPING_RATIO * self.config.width
        x = self._linear(hidden, code_vectors.shape[-1], "fc1")(code_vectors)
        x = activation(self.config.mapping_activation)(x)
        return self._linear(self.config.width, hidden, "fc2")(x)

    def _linear(self, features: int, fan_in: int, name: str) -> nn.Dense:
        bound = fan_in**-0.5
        return nn.Dense(
            features,
            dtype=self.dtype,
            promote_dtype=promote_to,
            dot_general=dot_general,
            kernel_init=uniform(bound),
            bias_init=uniform(bound),
            name=name,
        )


def init_encoder_cache(
    config: VisionConfig, compute: Compute, batch_size: int, dtype: DTypeLike | None = None
) -> KVCache:
    """Returns an empty cache for all positions of a token encoder.

    Args:
        dtype: that of the activations unless given.

    Raises:
        ValueError: the encoder is not causal.
    """
    check_causal(config)
    dtype = dtype or compute.jax_dtype
    return empty_cache(config, batch_size, config.num_tokens, dtype, compute.is_scanned)


def uniform(bound: float) -> nn.initializers.Initializer:
    """Returns an initializer that draws from U(-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def check_causal(config: VisionConfig) -> None:
    """Raises ValueError where tokens would depend on what follows them."""
    if not config.is_causal:
        raise UserError(
            "expected a causal token encoder, got one in which every token sees all ids: only "
            "whole images can be encoded (semantic_tokens, image_features)"
        )


def check_num_tokens(n: int, config: VisionConfig) -> None:
    """Raises ValueError where `n` tokens don't match the position table."""
    if n != config.num_tokens:
        raise UserError(
            f"expected {config.num_tokens} tokens ({'x'.join(map(str, config.grid))}, images of "
            f"{config.image_size} px), got {n}: resize the images, or resample the position table "
            f"(image_size=...) when loading"
        )


def _check_positions(positions: Any, config: VisionConfig) -> None:
    """Raises ValueError for positions that are no integers, or known and past the table."""
    if not jnp.issubdtype(jnp.result_type(positions), jnp.integer):
        raise UserError(f"expected integer positions, got {jnp.result_type(positions)}")
    if isinstance(positions, jax.core.Tracer):
        return
    if (largest := int(np.max(positions))) >= config.num_tokens:
        raise UserError(f"expected positions below {config.num_tokens}, got {largest}")
