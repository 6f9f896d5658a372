"""Attention pooling (MAP): a learned latent asks one question of all tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.config import Compute, VisionConfig
from toklip_jax.models.transformer import Mlp, Projection, layer_norm
from toklip_jax.ops.attention import attention


class MapPool(nn.Module):
    """y = proj(attn(q(latent), kv(tokens))); feature = y + mlp(norm(y)).

    As SigLIP's: no q or k norm, and no residual from the latent. It attends to all tokens, also
    above a causal stack.
    """

    config: VisionConfig
    compute: Compute

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        config, dtype = self.config, self.compute.jax_dtype
        d = config.width
        heads = (config.pool_num_heads, d // config.pool_num_heads)
        latent = self.param("latent", nn.initializers.truncated_normal(d**-0.5), (1, d))
        query = Projection((d,), heads, dtype, name="q")(latent)  # [1, k, e]
        query = jnp.broadcast_to(query, (len(tokens), *query.shape))  # [b, 1, k, e]
        kv = Projection((d,), (2, *heads), dtype, name="kv")(tokens)  # [b, n, 2, k, e]
        out = attention(query, *jnp.moveaxis(kv, 2, 0))  # [b, 1, k, e]
        out = Projection(heads, (d,), dtype, name="proj")(out)  # [b, 1, d]
        mlp = Mlp(config.mlp_dim, d, config.activation, dtype, name="mlp")
        return (out + mlp(layer_norm(config.norm_eps, dtype, "norm")(out)))[:, 0]
