"""Fetches arrays from devices to hosts one by one, so that no host holds a whole model."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def fetch(array: Any) -> np.ndarray:
    """Returns one whole array, from devices or from the host.

    Of a jax array no copy is kept beyond the result, while `np.asarray` would keep one for as long
    as the array lives: a second model on the host once all parameters have been read. Where the
    array's shards are on several hosts, all of them must call this.
    """
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    if array.is_fully_replicated:
        return _fetch_shard(array.addressable_data(0))
    out = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            out[shard.index] = _fetch_shard(shard.data)
    return out


class SharedReading:
    """Arrays that every host fetches in the same order, although only one host uses them.

    Attributes:
        arrays: arrays by name; shapes and dtypes are at hand, each array is fetched once, when
            read.
    """

    def __init__(self, arrays: Mapping[str, Any]):
        self._waiting = {name: x for name, x in arrays.items() if _is_spread(x)}
        self._arrays = dict(arrays)

    def read(self, name: str) -> np.ndarray:
        """Returns the array called `name`; those on several hosts are read in their order."""
        self._waiting.pop(name, None)
        return fetch(self._arrays[name])

    def finish(self) -> None:
        """Takes part in the fetching of all arrays that are still unread."""
        while self._waiting:
            self.read(next(iter(self._waiting)))


def _is_spread(array):
    return isinstance(array, jax.Array) and not array.is_fully_addressable


def _fetch_shard(shard):
    if shard.devices() and next(iter(shard.devices())).platform == "cpu":
        return np.asarray(shard)  # a view of the device's memory, which is the host's
    return np.asarray(jnp.copy(shard))
