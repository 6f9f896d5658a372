"""The pre-norm transformer that all towers share: attention, MLP, block, stack."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.nn.config import Compute, TransformerConfig
from toklip_jax.ops.activations import activation
from toklip_jax.ops.attention import attention
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class Stack(nn.Module):
    """`depth` blocks, scanned over stacked parameters (`blocks`) or one by one (`blocks_{i}`)."""

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        block = self._block()
        if not self.compute.is_scanned:
            for i in range(self.config.depth):
                x = block(self.config, self.compute, name=f"blocks_{i}")(x)
            return x
        scan = nn.scan(
            lambda module, carry, _: (module(carry), None),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=self.config.depth,
        )
        return scan(block(self.config, self.compute, name="blocks"), x, None)[0]

    def _block(self):
        """The block's class; of the scan's, `prevent_cse` would only hinder the compiler."""
        if self.compute.remat == "none":
            return Block
        is_dots = self.compute.remat == "dots"
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if is_dots else None
        return nn.remat(Block, prevent_cse=not self.compute.is_scanned, policy=policy)


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)).

    Whether attention is causal is a field of the config and not an argument of the call, so that
    neither scan nor rematerialisation can lose the mask.
    """

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        config, dtype = self.config, self.compute.jax_dtype
        x = constrain(x, BATCH_AXES, None, None)
        x = x + SelfAttention(config, self.compute, name="attn")(
            layer_norm(config.norm_eps, dtype, "norm1")(x)
        )
        mlp = Mlp(config.mlp_dim, config.width, config.activation, dtype, name="mlp")
        x = x + mlp(layer_norm(config.norm_eps, dtype, "norm2")(x))
        return constrain(x, BATCH_AXES, None, None)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one packed projection for q, k and v."""

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        config, dtype = self.config, self.compute.jax_dtype
        heads = (config.num_heads, config.head_dim)
        qkv = Projection((config.width,), (3, *heads), dtype, name="qkv")(x)  # [b, n, 3, k, e]
        # Three slices, not jnp.moveaxis: on CPU its gradient takes twice the time of all the rest.
        query, key, value = (shard_heads(qkv[:, :, i]) for i in range(3))
        out = shard_heads(attention(query, key, value, is_causal=config.is_causal))  # [b, n, k, e]
        return Projection(heads, (config.width,), dtype, name="proj")(out)


class Mlp(nn.Module):
    """Linear to `hidden_dim`, activation, linear to `out_dim`."""

    hidden_dim: int
    out_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"]) -> Float[Array, "b *n d"]:
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=init, name="fc1")(x)
        x = constrain(x, BATCH_AXES, *(None,) * (x.ndim - 2), "tensor")
        x = activation(self.activation)(x)
        return nn.Dense(self.out_dim, dtype=self.dtype, kernel_init=init, name="fc2")(x)


class Projection(nn.Module):
    """A linear layer whose input or output is split into axes, such as heads.

    `nn.DenseGeneral` flattens its kernel to initialise it, which sharding by axis can't follow.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        ndim = len(self.in_shape)
        shape = self.in_shape + self.out_shape
        axes = tuple(range(ndim)), tuple(range(ndim, len(shape)))
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", *axes)
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, self.out_shape, jnp.float32)
        return jnp.tensordot(x.astype(self.dtype), kernel, ndim) + bias.astype(self.dtype)


def shard_heads(x: Float[Array, "b n k e"]) -> Float[Array, "b n k e"]:
    """Puts the batch over `data` and `fsdp`, and the heads over `tensor`."""
    return constrain(x, BATCH_AXES, None, "tensor", None)


def layer_norm(eps: float, dtype: jnp.dtype, name: str | None) -> nn.LayerNorm:
    """Layer norm over the last axis; float32 statistics by the two-pass formula, as torch's.

    Of it, the backward pass keeps the input alone and does the rest again. That saves memory, and
    on CPU, where XLA would recompute chains of norms of layers that aren't scanned, most of the
    time (docs/performance.md).
    """
    norm = nn.remat(nn.LayerNorm)
    return norm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)
