"""The pre-norm transformer that all towers share: stack, block, self-attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.nn.cache import KVCache
from toklip_jax.nn.config import Compute, TransformerConfig
from toklip_jax.nn.layers import Mlp, Projection, shard_heads
from toklip_jax.nn.norms import build_norm
from toklip_jax.ops.attention import attention
from toklip_jax.ops.dropout import dropout
from toklip_jax.ops.rotary import (
    RotaryTable,
    rotary_table,
    rotary_table_2d,
    rotate_halves,
    rotate_neighbours,
)
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class Stack(nn.Module):
    """`depth` blocks, scanned over stacked parameters (`blocks`) or one by one (`blocks_{i}`)."""

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        positions: Int[Array, "b n"] | None = None,
        segments: Int[Array, "b n"] | None = None,
        cache: KVCache | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Float[Array, "b n d"], KVCache | None]:
        """Returns the last block's output and the cache, n places longer, if one was given.

        Args:
            positions: each row's places in its sequence, negative for padding. Unless given, they
                are 0 to n - 1, or continue from the cache's length.
            segments: which of the sequences packed into a row each place belongs to; each sees its
                own only. One sequence unless given.
            cache: keys and values of the places before these, from `nn.cache.empty_cache`; needs a
                causal stack to mean the same as the whole sequence at once.
            dropout_key: draws what is dropped, if the config has dropout; None drops nothing.

        Raises:
            ValueError: the cache is too small, or of another stack or batch; positions or segments
                of another shape or type.
        """
        b, n, _ = x.shape
        _check_places(positions, (b, n), "positions")
        _check_places(segments, (b, n), "segments")
        if cache is not None:
            _check_cache(cache, self.config, b, self.compute.is_scanned)
            if positions is None:
                positions = jnp.broadcast_to(cache.length + jnp.arange(n), (b, n))
            if segments is None:
                segments = jnp.zeros((b, n), jnp.int32)
            cache = cache.extend(positions, segments)
        keys = None if dropout_key is None else jax.random.split(dropout_key, self.config.depth)
        if self.compute.is_scanned:
            x, cache = self._scan(x, positions, segments, cache, keys)
            return _nan_if_overfull(x, cache), cache
        layers, is_split = [], cache is not None and not cache.is_stacked
        for i in range(self.config.depth):
            block = self._block()(self.config, self.compute, name=f"blocks_{i}")
            part = cache.of_layer(i) if is_split else cache
            x, part = block(x, positions, segments, part, None if keys is None else keys[i])
            if is_split:
                layers.append(part)
            else:
                cache = part
        cache = cache.with_layers(layers) if is_split else cache
        return _nan_if_overfull(x, cache), cache

    def _scan(self, x, positions, segments, cache, keys):
        def step(block, carry, positions, segments, key):
            x, cache = carry
            return block(x, positions, segments, cache, key), None

        scan = nn.scan(
            step,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=self.config.depth,
        )
        block = self._block()(self.config, self.compute, name="blocks")
        return scan(block, (x, cache), positions, segments, keys)[0]

    def _block(self):
        """The block's class; in a scan, `prevent_cse` would only hinder the compiler."""
        if self.compute.remat == "none":
            return Block
        is_dots = self.compute.remat == "dots"
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if is_dots else None
        return nn.remat(Block, prevent_cse=not self.compute.is_scanned, policy=policy)


def _nan_if_overfull(x, cache):
    """Outputs as they are, or NaN where the cache had no room for their keys and values."""
    if cache is None:
        return x
    return jnp.where(cache.length > cache.positions.shape[1], jnp.nan, x)


def _check_places(places, shape, name):
    if places is None:
        return
    if places.shape != shape or not jnp.issubdtype(places.dtype, jnp.integer):
        raise UserError(
            f"expected integer {name} {list(shape)}, got {places.dtype} {list(places.shape)}"
        )


def _check_cache(cache, config, b, is_scanned):
    if is_scanned and not cache.is_stacked:
        raise UserError(
            "expected a cache with one array for all layers, which are scanned, got an array for "
            "each: make one with empty_cache(..., is_scanned=True)"
        )
    expected = (config.depth, b, config.num_kv_heads, config.head_dim)
    if cache.is_stacked:
        layers, rows, heads, _, size = cache.keys.shape
    else:
        layers = len(cache.keys)
        rows, heads, _, size = cache.keys[0].shape
    if (layers, rows, heads, size) != expected:
        raise UserError(
            f"expected a cache of (layers, rows, heads, head size) {expected}, got "
            f"{(layers, rows, heads, size)}: make one with empty_cache for this config and batch"
        )


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)).

    Whether attention is causal is a field of the config and not an argument of the call, so that
    neither scan nor rematerialisation can lose the mask.
    """

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        positions: Int[Array, "b n"] | None = None,
        segments: Int[Array, "b n"] | None = None,
        cache: KVCache | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Float[Array, "b n d"], KVCache | None]:
        """Returns the output and the cache with this layer's keys and values in it.

        Args are those of `Stack`, whose call has extended the cache by these n places.
        """
        config, dtype = self.config, self.compute.jax_dtype
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x = constrain(x, BATCH_AXES, None, None)
        attn = SelfAttention(config, self.compute, name="attn")
        y, cache = attn(build_norm(config, dtype, "norm1")(x), positions, segments, cache)
        x = x + dropout(y, config.dropout, keys[0])
        mlp = Mlp(
            config.mlp_dim,
            config.width,
            config.activation,
            dtype,
            is_gated=config.mlp == "gated",
            has_bias=config.has_bias,
            init_std=config.init_std,
            name="mlp",
        )
        y = build_norm(config, dtype, "norm2")(x)
        if config.has_mlp_norm:
            y = build_norm(config, dtype, "mlp_norm")(y)
        x = x + dropout(mlp(y), config.dropout, keys[1])
        return constrain(x, BATCH_AXES, None, None), cache


class SelfAttention(nn.Module):
    """Multi-head self-attention, with heads of keys and values shared by groups if configured."""

    config: TransformerConfig
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        positions: Int[Array, "b n"] | None = None,
        segments: Int[Array, "b n"] | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "b n d"], KVCache | None]:
        config, dtype = self.config, self.compute.jax_dtype
        query, key, value = self._project(x)
        if config.has_qk_norm:
            query = build_norm(config, dtype, "q_norm")(query)
            key = build_norm(config, dtype, "k_norm")(key)
        query, key = _rotate(query, key, positions, config)
        key_positions, key_segments = positions, segments
        if cache is not None:
            cache, key, value = cache.write(key, value)
            key_positions, key_segments = cache.positions, cache.segments
        out = attention(
            query,
            key,
            value,
            is_causal=config.is_causal,
            query_positions=positions,
            key_positions=key_positions,
            query_segments=segments,
            key_segments=key_segments,
        )  # [b, n, k, e]
        heads = (config.num_heads, config.head_dim)
        project = self._projection(heads, (config.width,), config.has_bias, "proj")
        return project(shard_heads(out)), cache

    def _project(self, x):
        """Queries [b, n, k, e], and keys and values [b, n, g, e]."""
        config = self.config
        heads = (config.num_heads, config.head_dim)
        inputs, has_bias = (config.width,), config.has_qkv_bias
        if config.projection == "packed":
            qkv = self._projection(inputs, (3, *heads), has_bias, "qkv")(x)  # [b, n, 3, k, e]
            # Three slices, not jnp.moveaxis: on CPU its gradient takes twice as long as all the
            # rest.
            return [shard_heads(qkv[:, :, i]) for i in range(3)]
        kv_heads = (config.num_kv_heads, config.head_dim)
        sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
        return [
            shard_heads(self._projection(inputs, size, has_bias, name)(x))
            for name, size in sizes.items()
        ]

    def _projection(self, in_shape, out_shape, has_bias, name):
        return Projection(
            in_shape,
            out_shape,
            self.compute.jax_dtype,
            has_bias=has_bias,
            init_std=self.config.init_std,
            name=name,
        )


def _rotate(query, key, positions, config):
    """Queries and keys, turned by their positions as the config says."""
    if config.positions == "none":
        return query, key
    if positions is None:
        positions = jnp.arange(query.shape[1])[None]  # [1, n]
    table = _table(positions, config)
    rotate = rotate_halves if config.positions == "rotary" else rotate_neighbours
    return rotate(query, table), rotate(key, table)


def _table(positions, config) -> RotaryTable:
    size, base = config.head_dim, config.rotary_base
    if config.positions != "rotary_2d":
        return rotary_table(positions, size, base)
    return rotary_table_2d(
        positions, size, base, width=config.rotary_width, prefix=config.rotary_prefix
    )
