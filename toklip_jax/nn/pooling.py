"""Pooling: from all tokens to one feature."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.nn.config import Compute, TransformerConfig
from toklip_jax.nn.transformer import Mlp, Projection, layer_norm, shard_heads
from toklip_jax.ops.attention import attention


def build_pool(kind: str, config: TransformerConfig, compute: Compute) -> nn.Module:
    """Returns the module that pools tokens [b, n, d] to a feature [b, d], not normalised."""
    return {"map": MapPool, "flatten": FlattenPool}[kind](config, compute)


def first_tokens(tokens: Float[Array, "b n d"], count: int, pool: str) -> Float[Array, "b m d"]:
    """Returns what makes a pool of kind `pool` see the first `count` tokens only."""
    if pool == "map":
        return tokens[:, :count]
    # Tied to its number of tokens: those that are not there are zeros, and so add nothing.
    return jnp.where((jnp.arange(tokens.shape[1]) < count)[:, None], tokens, 0)


def single_tokens(tokens: Float[Array, "b n d"], pool: str) -> Float[Array, "bn m d"]:
    """Returns the tokens as b * n images of one token each, for a pool of kind `pool`."""
    b, n, d = tokens.shape
    if pool == "map":
        return tokens.reshape(b * n, 1, d)
    alone = jnp.where(jnp.eye(n, dtype=bool)[:, :, None], tokens[:, None], 0)  # [b, n, n, d]
    return alone.reshape(b * n, n, d)


class MapPool(nn.Module):
    """Attention pooling: a learned latent asks one question of all tokens.

    y = proj(attn(q(latent), kv(tokens))); feature = y + mlp(norm(y)).

    As SigLIP's: no q or k norm, and no residual from the latent. It attends to all tokens, also
    above a causal stack.
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
        query = jnp.broadcast_to(query, (len(tokens), *query.shape))  # [b, 1, k, e]
        kv = Projection((d,), (2, *heads), dtype, name="kv")(tokens)  # [b, n, 2, k, e]
        query, key, value = map(shard_heads, (query, kv[:, :, 0], kv[:, :, 1]))
        out = shard_heads(attention(query, key, value))  # [b, 1, k, e]
        out = Projection(heads, (d,), dtype, name="proj")(out)  # [b, 1, d]
        mlp = Mlp(config.mlp_dim, d, config.activation, dtype, name="mlp")
        return (out + mlp(layer_norm(config.norm_eps, dtype, "norm")(out)))[:, 0]


class FlattenPool(nn.Module):
    """feature = W [token 1; ...; token n] + b: one linear layer that sees every place apart.

    For small models that train for minutes: it knows from the first step where things are, which
    attention pooling has yet to learn. It is tied to the number of tokens.
    """

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        flat = tokens.reshape(len(tokens), -1)  # [b, n * d]
        return nn.Dense(self.config.width, dtype=self.compute.jax_dtype, name="linear")(flat)
