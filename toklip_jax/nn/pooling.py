"""Pooling of all tokens to one feature."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.nn.config import Compute, TransformerConfig
from toklip_jax.nn.layers import Mlp, Projection, shard_heads
from toklip_jax.nn.norms import layer_norm
from toklip_jax.ops.attention import attention
from toklip_jax.ops.products import dot_general, promote_to


def build_pool(kind: str, config: TransformerConfig, compute: Compute) -> nn.Module:
    """Returns the module that pools tokens [b, n, d] to a feature [b, d], not normalised."""
    return {"map": MapPool, "flatten": FlattenPool}[kind](config, compute)


def first_tokens(tokens: Float[Array, "b n d"], count: int, pool: str) -> Float[Array, "b m d"]:
    """Returns tokens from which a pool of kind `pool` sees the first `count` only."""
    if pool == "map":
        return tokens[:, :count]
    # The pool is tied to the number of tokens: zeros stand for the others, and add nothing.
    return jnp.where((jnp.arange(tokens.shape[1]) < count)[:, None], tokens, 0)


def single_tokens(tokens: Float[Array, "b n d"], pool: str) -> Float[Array, "bn m d"]:
    """Returns the tokens as b * n images of one token each, for a pool of kind `pool`."""
    b, n, d = tokens.shape
    if pool == "map":
        return tokens.reshape(b * n, 1, d)
    alone = jnp.where(jnp.eye(n, dtype=bool)[:, :, None], tokens[:, None], 0)  # [b, n, n, d]
    return alone.reshape(b * n, n, d)


class MapPool(nn.Module):
    """Attention pooling, in which one learned latent attends to all tokens.

    y = proj(attn(q(latent), kv(tokens))); feature = y + mlp(norm(y)).

    It is SigLIP's head: layer norm, no q or k norm, and no residual from the latent. It sees all
    tokens, above a causal stack as well. Of the config, it takes width, heads, mlp_dim, activation
    and norm_eps.
    """

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        config, dtype = self.config, self.compute.jax_dtype
        d = config.width
        heads = (config.num_heads, config.head_dim)
        latent = self.param("latent", nn.initializers.truncated_normal(d**-0.5), (1, d))
        query = Projection((d,), heads, dtype, name="q")(latent)  # [1, k, e]
        query = jnp.broadcast_to(query, (tokens.shape[0], *query.shape))  # [b, 1, k, e]
        kv = Projection((d,), (2, *heads), dtype, name="kv")(tokens)  # [b, n, 2, k, e]
        query, key, value = map(shard_heads, (query, kv[:, :, 0], kv[:, :, 1]))
        out = shard_heads(attention(query, key, value))  # [b, 1, k, e]
        out = Projection(heads, (d,), dtype, name="proj")(out)  # [b, 1, d]
        mlp = Mlp(config.mlp_dim, d, config.activation, dtype, name="mlp")
        return (out + mlp(layer_norm(config.norm_eps, dtype, "norm")(out)))[:, 0]


class FlattenPool(nn.Module):
    """Pooling by one linear layer over all tokens: feature = W [token 1; ...; token n] + b.

    It suits small models that train for minutes, because it tells places apart from the first step,
    which attention pooling has to learn. It is tied to the number of tokens.
    """

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        flat = tokens.reshape(tokens.shape[0], -1)  # [b, n * d]
        linear = nn.Dense(
            self.config.width,
            dtype=self.compute.jax_dtype,
            promote_dtype=promote_to,
            dot_general=dot_general,
            name="linear",
        )
        return linear(flat)
