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

    It is an ordinary pytree of one shape however full it is, for scanned and unrolled layers alike,
    and so may be carried by `lax.scan` and `lax.while_loop`. What sees what follows from positions
    and segments alone (`ops.attention`), so rows may be padded on either side.

    Attributes:
        keys: [l, b, g, s, e], after norms and rotary positions; a head's places lie together, which
            is how a product with one query reads them.
        values: [l, b, g, s, e].
        positions: int32 [b, s], negative where nothing stands.
        segments: int32 [b, s].
        length: int32 scalar; places that are filled, padding included.
        layer: int32 scalar; the layer that writes next while a stack runs.
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

    def write(
        self, keys: Float[Array, "b t g e"], values: Float[Array, "b t g e"]
    ) -> tuple["KVCache", Float[Array, "b s g e"], Float[Array, "b s g e"]]:
        """Writes one layer's keys and values to the places that `extend` added.

        Returns:
            The cache, in which the next layer writes next, and all keys and values of this layer.
        """
        start = (self.layer, 0, 0, self.length - keys.shape[1], 0)
        every_key, every_value = (
            _shard(_write(kept, jnp.swapaxes(new, 1, 2)[None], start))
            for kept, new in ((self.keys, keys), (self.values, values))
        )
        cache = self.replace(keys=every_key, values=every_value, layer=self.layer + 1)
        read = [
            jnp.swapaxes(jax.lax.dynamic_index_in_dim(x, self.layer, keepdims=False), 1, 2)
            for x in (every_key, every_value)
        ]
        return cache, read[0], read[1]


def empty_cache(config: TransformerConfig, batch_size: int, size: int, dtype: DTypeLike) -> KVCache:
    """Returns a cache of a stack in which nothing stands.

    Args:
        size: places that it can hold, padding included.
        dtype: type of keys and values.

    Raises:
        ValueError: no float type, or a negative number.
    """
    if min(batch_size, size) < 0 or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"expected a cache of floats for at least 0 rows and places, got {dtype}, "
            f"{batch_size} and {size}"
        )
    shape = (config.depth, batch_size, config.num_kv_heads, size, config.head_dim)
    return KVCache(
        keys=_shard(jnp.zeros(shape, dtype)),
        values=_shard(jnp.zeros(shape, dtype)),
        positions=jnp.full((batch_size, size), EMPTY, jnp.int32),
        segments=jnp.zeros((batch_size, size), jnp.int32),
        length=jnp.zeros((), jnp.int32),
        layer=jnp.zeros((), jnp.int32),
    )


def _write(array, part, start):
    return jax.lax.dynamic_update_slice(array, part.astype(array.dtype), start)


def _shard(x):
    """Puts the batch over `data` and `fsdp`, and the heads over `tensor`."""
    return constrain(x, None, BATCH_AXES, "tensor", None, None)
