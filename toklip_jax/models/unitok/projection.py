"""UniTok's projections to and from the code vectors: transformer blocks that change the width."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.unitok.vitamin import EPS
from toklip_jax.nn.layers import Mlp, Projection, shard_heads
from toklip_jax.nn.norms import layer_norm
from toklip_jax.ops.attention import attention

FLOAT32 = jnp.dtype("float32")
PROJECTION_EPS = 1e-5  # of the projections' norms but the MLP's; torch's default
MLP_RATIO = 2  # hidden units of the MLP to its width


class AttentionProjection(nn.Module):
    """y = proj(norm(x)) + attn(norm(x)), then y + mlp(norm(norm(y))), each norm with its own scale.

    Computed in float32.

    Attributes:
        width: width of the output.
        num_heads: heads of the attention, all together as wide as the wider of input and output.
        is_causal: whether a place sees only itself and those before it.
    """

    width: int
    num_heads: int
    is_causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        x = x.astype(jnp.float32)
        attn = ProjectingAttention(self.width, self.num_heads, self.is_causal, name="attn")
        y = nn.Dense(self.width, name="proj")(_norm("proj_norm")(x))
        y = y + attn(_norm("attn_norm")(x))
        mlp = Mlp(MLP_RATIO * self.width, self.width, "gelu_tanh", is_gated=True, name="mlp")
        return y + mlp(_norm("mlp_norm_1", EPS)(_norm("mlp_norm_0")(y)))


class ProjectingAttention(nn.Module):
    """Self-attention whose output is of another width than its input.

    Where that is narrower, a head is as wide as the output, and heads are averaged instead of
    joined. Keys have no bias.
    """

    width: int
    num_heads: int
    is_causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        c = x.shape[-1]
        heads = (self.num_heads, max(c, self.width) // self.num_heads)
        qkv = Projection((c,), (3, *heads), has_bias=False, name="qkv")(x)  # [b, n, 3, k, e]
        query, key, value = (shard_heads(qkv[:, :, i]) for i in range(3))
        query = query + self.param("q_bias", nn.initializers.zeros, heads)
        value = value + self.param("v_bias", nn.initializers.zeros, heads)
        out = attention(query, key, value, is_causal=self.is_causal)  # [b, n, k, e]
        if self.width < c:
            return Projection(heads[1:], (self.width,), name="proj")(jnp.mean(out, axis=2))
        return Projection(heads, (self.width,), name="proj")(shard_heads(out))


def _norm(name, eps=PROJECTION_EPS):
    return layer_norm(eps, FLOAT32, name)
