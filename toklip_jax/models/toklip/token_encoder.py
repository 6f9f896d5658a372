"""The token encoder: code vectors in, tokens with CLIP-level meaning out (paper section 3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.pooling import build_pool
from toklip_jax.nn.transformer import Stack, layer_norm
from toklip_jax.ops.activations import activation

MAPPING_RATIO = 4  # hidden size of the mapping MLP, in widths


class TokenEncoder(nn.Module):
    """mapping MLP, position table, (causal) blocks, final norm; pooling apart.

    It knows code vectors only, not which VQ tokenizer they come from.
    """

    config: VisionConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.jax_dtype
        self.mapping = CodeMapping(config, dtype)
        init = nn.initializers.normal(config.width**-0.5)
        self.pos_embed = self.param("pos_embed", init, (config.num_tokens, config.width))
        self.stack = Stack(config, self.compute)
        self.norm = layer_norm(config.norm_eps, dtype, None)
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
        return self.norm(self.stack(x))


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
            kernel_init=uniform(bound),
            bias_init=uniform(bound),
            name=name,
        )


def uniform(bound: float) -> nn.initializers.Initializer:
    """Returns an initializer that draws from U(-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def check_num_tokens(n: int, config: VisionConfig) -> None:
    """Raises ValueError where `n` tokens don't match the position table."""
    if n != config.num_tokens:
        raise ValueError(
            f"expected {config.num_tokens} tokens ({'x'.join(map(str, config.grid))}, images of "
            f"{config.image_size} px), got {n}: resize the images, or resample the position table "
            f"(image_size=...) when loading"
        )
