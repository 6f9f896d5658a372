"""Checksums of arrays, the same however the arrays are sharded, computed where they are.

Every element's bits are multiplied by an odd number that its place in the array determines, and the
products are summed modulo 2**32. One flipped bit always changes the sum, as an odd multiple of a
power of two is never zero; what else is damaged is missed once in about 2**32 times.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from toklip_jax.parallel.fetching import fetch

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}  # by the bytes of an element
HOST_BLOCK = 2**16  # elements


def checksums(arrays: list[Any]) -> list[int]:
    """Returns the checksum of each array; of arrays on several hosts, all must call it."""
    if all(_is_on_host(array) for array in arrays):  # saves compiling
        return [_checksum_on_host(fetch(array)) for array in arrays]
    return np.asarray(_on_devices(_replicated(arrays))(arrays)).tolist()


def _is_on_host(array):
    if not isinstance(array, jax.Array):
        return True
    is_cpu = all(device.platform == "cpu" for device in array.sharding.device_set)
    return is_cpu and array.is_fully_addressable


def _replicated(arrays):
    found = (x.sharding for x in arrays if isinstance(getattr(x, "sharding", None), NamedSharding))
    sharding = next(found, None)
    return sharding and NamedSharding(sharding.mesh, PartitionSpec())


@functools.lru_cache(maxsize=4)
def _on_devices(sharding):
    def sums(arrays):
        return jnp.stack([_checksum(array) for array in arrays])

    return jax.jit(sums, out_shardings=sharding)


def _checksum(array):
    bits = _bits(jnp.atleast_1d(array)).astype(np.uint32)
    return jnp.sum(_weighed(bits, _places(bits.shape)), dtype=np.uint32)


def _checksum_on_host(array: np.ndarray) -> int:
    """Returns the same of an array on the host, in blocks that stay in the processor's cache."""
    bits, total = _bits(np.atleast_1d(array)).reshape(-1), 0
    for start in range(0, len(bits), HOST_BLOCK):
        block = bits[start : start + HOST_BLOCK].astype(np.uint32, copy=False)
        places = np.arange(start, start + len(block)).astype(np.uint32)
        total += int(np.sum(_weighed(block, places), dtype=np.uint32))
    return total % 2**32


def _bits(array):
    return array.view(UNSIGNED[array.dtype.itemsize])


def _weighed(bits, places):
    return bits * (_mixed(places) | np.uint32(1))


def _places(shape):
    """The places of an array's elements in row-major order, modulo 2**32."""
    places, stride = jnp.zeros((1,) * len(shape), np.uint32), 1
    for axis in reversed(range(len(shape))):
        along = jnp.arange(shape[axis], dtype=np.uint32) * np.uint32(stride % 2**32)
        places = places + along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        stride *= shape[axis]
    return places


def _mixed(x):
    """Spreads numbers over 32 bits, one to one (lowbias32 of Wellons' hash-prospector)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
