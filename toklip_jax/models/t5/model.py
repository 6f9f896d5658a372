"""T5's text encoder (arXiv 1910.10683; gated as in T5 1.1, arXiv 2002.05202)."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from toklip_jax.models.siglip.text_tower import look_up
from toklip_jax.models.t5.config import T5Config
from toklip_jax.nn.config import Compute
from toklip_jax.nn.layers import Mlp, Projection, shard_heads
from toklip_jax.nn.norms import rms_norm
from toklip_jax.ops.attention import attention
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


@flax.struct.dataclass
class TextTokens:
    """What a text encoder makes of texts.

    Attributes:
        tokens: a feature of each token, [b, t, d]; those of padding mean nothing.
        valid: which of them count, bool [b, t]: all up to the last that is no padding.
    """

    tokens: jax.Array
    valid: jax.Array


class T5Encoder(nn.Module):
    """Token table, pre-norm blocks without biases, final norm: `T5EncoderModel` of transformers.

    Where a token stands is told by a bias of the attention's logits, one for each head and each
    class of distances, which all blocks share. Logits are not divided by the square root of a
    head's size.
    """

    config: T5Config
    compute: Compute

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b t"]) -> TextTokens:
        """Returns the tokens after the final norm; padding is seen by none.

        Args:
            token_ids: ids of texts that the end token ends, padded on the right.
        """
        config, dtype = self.config, self.compute.jax_dtype
        normal = nn.initializers.normal
        table = self.param("token_embed", normal(1.0), (config.vocab_size, config.width))
        biases = self.param(
            "relative_bias",
            normal(config.width**-0.5),
            (config.num_buckets, config.num_heads),
        )
        valid = up_to_the_last(token_ids != config.pad_id)
        buckets = bucket_of_distances(token_ids.shape[1], config)
        bias = jnp.moveaxis(biases.astype(jnp.float32)[buckets], -1, 0)  # [k, t, s]
        x = look_up(table, token_ids).astype(dtype)
        x = T5Stack(config, self.compute, name="stack")(x, bias, valid)
        return TextTokens(rms_norm(config.norm_eps, dtype, "norm")(x), valid)


class T5Stack(nn.Module):
    """`depth` blocks, scanned over stacked parameters (`blocks`) or one by one (`blocks_{i}`)."""

    config: T5Config
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "k t s"], valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        config, compute = self.config, self.compute
        if not compute.is_scanned:
            for i in range(config.depth):
                x = T5Block(config, compute, name=f"blocks_{i}")(x, bias, valid)
            return x
        scan = nn.scan(
            lambda block, x, bias, valid: (block(x, bias, valid), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=config.depth,
        )
        return scan(T5Block(config, compute, name="blocks"), x, bias, valid)[0]


class T5Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)), with RMS norms."""

    config: T5Config
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "k t s"], valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        config, dtype = self.config, self.compute.jax_dtype
        x = constrain(x, BATCH_AXES, None, None)
        attn = T5Attention(config, self.compute, name="attn")
        x = x + attn(rms_norm(config.norm_eps, dtype, "norm1")(x), bias, valid)
        mlp = Mlp(
            config.mlp_dim,
            config.width,
            config.activation,
            dtype,
            is_gated=config.is_gated,
            has_bias=False,
            name="mlp",
        )
        return x + mlp(rms_norm(config.norm_eps, dtype, "norm2")(x))


class T5Attention(nn.Module):
    """Self-attention whose logits are q·k + bias."""

    config: T5Config
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "k t s"], valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        config, dtype = self.config, self.compute.jax_dtype
        width, heads = (config.width,), (config.num_heads, config.head_dim)
        query, key, value = (
            shard_heads(Projection(width, heads, dtype, has_bias=False, name=name)(x))
            for name in ("q", "k", "v")
        )
        places = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        out = attention(
            query,
            key,
            value,
            query_positions=places,
            key_positions=jnp.where(valid, places, -1),
            bias=bias,
            scale=1.0,
        )  # [b, t, k, e]
        project = Projection(heads, width, dtype, has_bias=False, name="proj")
        return project(shard_heads(out))


def up_to_the_last(is_text: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """Returns True at every place that has a True at it or after it."""
    return jnp.flip(jnp.cumsum(jnp.flip(is_text, 1), axis=1), 1) > 0


def bucket_of_distances(length: int, config: T5Config) -> Int32[np.ndarray, "t s"]:
    """Returns the class of the distance from each query to each key, in [0, num_buckets).

    Half of the classes are for keys after the query. Of a half, the first are for one distance
    each, the others grow by equal ratios up to `max_distance`, in float32 as in transformers.
    """
    half, exact = config.num_buckets // 2, config.exact_buckets
    offset = np.arange(length)[None] - np.arange(length)[:, None]  # of the key from the query
    distance = np.abs(offset)
    ratio = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(np.log(config.max_distance / exact))
    far = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (bucket + np.where(offset > 0, half, 0)).astype(np.int32)
