"""The generator's ends: conditions, what stands for ids at the input, and heads."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.models.generator.config import INIT_STD, GPTConfig
from toklip_jax.nn.layers import product_of_few
from toklip_jax.ops.activations import activation
from toklip_jax.ops.products import dot_general, promote_to
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class ClassCondition(nn.Module):
    """A table with a row for each class, and one for none; NaN for what is no class."""

    config: GPTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, classes: Int[Array, " b"]) -> Float[Array, "b 1 d"]:
        init = nn.initializers.normal(INIT_STD)
        shape = (self.config.num_classes + 1, self.config.width)
        table = self.param("embed", init, shape, jnp.float32)
        rows = jnp.take(table, classes, axis=0, mode="clip")
        is_known = (classes >= 0) & (classes <= self.config.num_classes)
        return jnp.where(is_known[:, None], rows, jnp.nan)[:, None].astype(self.dtype)


class CaptionCondition(nn.Module):
    """Two linear layers from a text encoder's features to the width (tanh GELU, no biases)."""

    config: GPTConfig
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        self.fc1 = linear(config.width, self.dtype)
        self.fc2 = linear(config.width, self.dtype)
        init = nn.initializers.normal(config.caption_dim**-0.5)
        self.uncond = self.param(
            "uncond", init, (config.caption_length, config.caption_dim), jnp.float32
        )

    def __call__(self, captions: Float[Array, "b p c"]) -> Float[Array, "b p d"]:
        return self.fc2(activation("gelu_tanh")(self.fc1(captions.astype(self.dtype))))

    def null(self) -> Float[Array, "p c"]:
        return self.uncond


class PlaceEmbedding(nn.Module):
    """An embedding of each of a place's ids, summed."""

    sizes: tuple[int, ...]
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: Int[Array, "*b q"]) -> Float[Array, "*b d"]:
        init = nn.initializers.normal(INIT_STD)
        rows = []
        for i, size in enumerate(self.sizes):
            table = self.param(f"codes_{i}", init, (size, self.width), jnp.float32)
            rows.append(jnp.take(table, ids[..., i], axis=0, mode="clip"))
        return sum(rows).astype(self.dtype)


class SemanticInput(nn.Module):
    """Joins the token encoder's tokens to the ids' embeddings: added, or end to end."""

    config: GPTConfig
    dtype: jnp.dtype

    def setup(self):
        self.linear = linear(self.config.width, self.dtype)
        init = nn.initializers.normal(1.0)  # as the tokens, which a norm has left
        self.start = self.param("start", init, (self.config.semantic_dim,), jnp.float32)

    def __call__(
        self, x: Float[Array, "b n d"], tokens: Float[Array, "b n e"]
    ) -> Float[Array, "b n d"]:
        tokens = tokens.astype(self.dtype)
        if self.config.semantic == "add":
            return x + self.linear(tokens)
        return self.linear(jnp.concatenate([x, tokens], axis=-1))

    def without_token(self, x: Float[Array, "b p d"]) -> Float[Array, "b p d"]:
        """Returns rows that have no token, with the learned vector in its place."""
        start = jnp.broadcast_to(self.start.astype(self.dtype), (*x.shape[:2], len(self.start)))
        return self(x, start)


class Heads(nn.Module):
    """A linear layer to the logits of each of a place's ids; zero at first, as LlamaGen's is.

    The head of the second and later ids also sees an embedding of the place's ids before it, so
    that a place's ids are drawn one given another.
    """

    sizes: tuple[int, ...]
    width: int
    dtype: jnp.dtype

    def setup(self):
        zeros, normal = nn.initializers.zeros, nn.initializers.normal(INIT_STD)
        self.kernels = [
            self.param(f"codes_{i}", zeros, (self.width, size), jnp.float32)
            for i, size in enumerate(self.sizes)
        ]
        self.before = [
            self.param(f"before_{i}", normal, (size, self.width), jnp.float32)
            for i, size in enumerate(self.sizes[:-1])
        ]

    def __call__(
        self, x: Float[Array, "*b d"], code: int, ids: Int[Array, "*b q"] | None
    ) -> Float[Array, "*b v"]:
        for i in range(code):
            x = x + jnp.take(self.before[i], ids[..., i], axis=0, mode="clip").astype(x.dtype)
        (kernel,) = promote_to(self.kernels[code], dtype=self.dtype)
        logits = product_of_few(self, f"codes_{code}", kernel, x, (self.width,))
        if logits is None:
            axes = ((x.ndim - 1,), (0,)), ((), ())
            logits = dot_general(x.astype(self.dtype), kernel, axes, None, jnp.float32)
        return constrain(logits, BATCH_AXES, *(None,) * (logits.ndim - 2), "tensor")


def linear(features: int, dtype: jnp.dtype) -> nn.Dense:
    """Returns a linear layer without bias, initialised as LlamaGen's."""
    return nn.Dense(
        features,
        use_bias=False,
        dtype=dtype,
        promote_dtype=promote_to,
        dot_general=dot_general,
        kernel_init=nn.initializers.normal(INIT_STD),
    )
