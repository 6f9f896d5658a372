"""The cache of keys and values with which a stack continues a sequence."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.nn.config import TransformerConfig
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

EMPTY = -1  # the position of a place where nothing stands


@flax.struct.dataclass
class KVCache:
    """Keys and values of what every layer has seen; it goes into a stack and comes out longer.

    It is an ordinary pytree of one shape however full it is, and so may be carried by `lax.scan`
    and `lax.while_loop`. What sees what follows from positions and segments alone
    (`ops.attention`), so rows may be padded on either side.

    Attributes:
        keys: [l, b, g, s, e], after norms and rotary positions; a head's places lie together, which
            is how a product with one query reads them. For layers that aren't scanned a tuple of l
            arrays [b, g, s, e]: of one array a layer would have to copy its part to read it.
        values: as `keys`.
        positions: int32 [b, s], negative where nothing stands.
        segments: int32 [b, s].
        length: int32 scalar; places that are filled, padding included.
        layer: int32 scalar; the layer that writes next while a stack runs, where one array holds
            all.
    """

    keys: Any  # arrays, or what JAX puts in their place: shapes, shardings
    values: Any
    positions: Any
    segments: Any
    length: Any
    layer: Any

    def extend(self, positions: Int[Array, "b t"], segments: Int[Array, "b t"]) -> "KVCache":
        """Returns the cache with t more places, for the layers to write from the first on.

        Raises:
            ValueError: the cache is too small. Inside `jit`, where its length is not known, only a
                t that no cache of this size could hold is refused; a stack gives NaN for the rest.
        """
        count, size = positions.shape[1], self.positions.shape[1]
        filled = 0 if isinstance(self.length, jax.core.Tracer) else int(self.length)
        if filled + count > size:
            raise UserError(
                f"expected at most {size - filled} more places in a cache of {size}, got {count}: "
                f"make a larger cache"
            )
        start = (0, self.length)
        return self.replace(
            positions=_write(self.positions, positions, start),
            segments=_write(self.segments, segments, start),
            length=self.length + count,
            layer=jnp.zeros((), jnp.int32),
        )

    def resized(self, size: int) -> "KVCache":
        """Returns the cache with room for `size` places; those that are filled must fit.

        Attention reads all places of a cache, whether anything stands there or not.
        """
        added = size - self.positions.shape[1]

        def fit(x, axis, empty=0):
            if added <= 0:
                return jax.lax.slice_in_dim(x, 0, size, axis=axis)
            widths = [(0, added if i == axis else 0) for i in range(x.ndim)]
            return jnp.pad(x, widths, constant_values=empty)

        def fit_all(arrays):
            return jax.tree.map(lambda x: _shard(fit(x, x.ndim - 2)), arrays)

        return self.replace(
            keys=fit_all(self.keys),
            values=fit_all(self.values),
            positions=fit(self.positions, 1, EMPTY),
            segments=fit(self.segments, 1),
        )

    @property
    def is_stacked(self) -> bool:
        """Whether it is of all layers in one array, or of one layer alone."""
        return not isinstance(self.keys, tuple)

    def of_layer(self, i: int) -> "KVCache":
        """Returns the cache of layer i alone, keys and values [b, g, s, e], of one not stacked."""
        return self.replace(keys=self.keys[i], values=self.values[i])

    def with_layers(self, layers: list["KVCache"]) -> "KVCache":
        """Returns the cache with the keys and values that the layers returned."""
        keys, values = tuple(x.keys for x in layers), tuple(x.values for x in layers)
        return self.replace(keys=keys, values=values)

    def write(
        self, keys: Float[Array, "b t g e"], values: Float[Array, "b t g e"]
    ) -> tuple["KVCache", Float[Array, "b s g e"], Float[Array, "b s g e"]]:
        """Writes one layer's keys and values to the places that `extend` added.

        Returns:
            The cache, in which the next layer writes next, and all keys and values of this layer.
        """
        is_alone = self.keys.ndim == 4  # as `of_layer` gives it
        layer = () if is_alone else (self.layer,)
        start = (*layer, 0, 0, self.length - keys.shape[1], 0)
        every_key, every_value = (
            _shard(_write(kept, jnp.swapaxes(new, 1, 2)[(None,) * len(layer)], start))
            for kept, new in ((self.keys, keys), (self.values, values))
        )
        cache = self.replace(keys=every_key, values=every_value, layer=self.layer + 1)
        read = [
            x if is_alone else jax.lax.dynamic_index_in_dim(x, self.layer, keepdims=False)
            for x in (every_key, every_value)
        ]
        return cache, *(jnp.swapaxes(x, 1, 2) for x in read)


def empty_cache(
    config: TransformerConfig,
    batch_size: int,
    size: int,
    dtype: DTypeLike,
    is_scanned: bool = True,
) -> KVCache:
    """Returns a cache of a stack in which nothing stands.

    Args:
        size: places that it can hold, padding included.
        dtype: type of keys and values.
        is_scanned: whether the stack's layers are (`Compute.is_scanned`). Others take a cache of
            scanned layers too, and are slower with it.

    Raises:
        ValueError: no float type, or a negative number.
    """
    if min(batch_size, size) < 0 or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"expected a cache of floats for at least 0 rows and places, got {dtype}, "
            f"{batch_size} and {size}"
        )
    shape = (batch_size, config.num_kv_heads, size, config.head_dim)

    def zeros():
        if is_scanned:
            return _shard(jnp.zeros((config.depth, *shape), dtype))
        return tuple(_shard(jnp.zeros(shape, dtype)) for _ in range(config.depth))

    return KVCache(
        keys=zeros(),
        values=zeros(),
        positions=jnp.full((batch_size, size), EMPTY, jnp.int32),
        segments=jnp.zeros((batch_size, size), jnp.int32),
        length=jnp.zeros((), jnp.int32),
        layer=jnp.zeros((), jnp.int32),
    )


def _write(array, part, start):
    return jax.lax.dynamic_update_slice(array, part.astype(array.dtype), start)


def _shard(x):
    """Puts the batch over `data` and `fsdp`, and the heads over `tensor`."""
    return constrain(x, *(None,) * (x.ndim - 4), BATCH_AXES, "tensor", None, None)
