"""The base of metric states: they are sums, so merging two of them is adding them.

A state holds counts (int) and sums (float64) on the host, and what was masked out was never added.
So neither the size of the batches, nor padding in the last one, nor the number of hosts shows in
the result: counts are equal, means agree to the last digits of float64.
"""

import operator
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

AnyArray = jax.Array | np.ndarray


class Estimate(NamedTuple):
    """A measured value and its standard error (NaN where it is not known)."""

    value: float
    error: float = float("nan")


class State:
    """Base of metric states, which are `flax.struct` dataclasses whose leaves are all sums."""

    def merge(self: "StateT", other: "StateT") -> "StateT":
        """Returns the state of both parts' examples together."""
        return jax.tree.map(operator.add, self, other)


StateT = TypeVar("StateT", bound=State)


def merge_across_hosts(state: StateT) -> StateT:
    """Returns the merge of every process's `state`, the same on each; all processes must call it.

    Leaves travel as bytes, since JAX would round int64 and float64 to 32 bits.
    """
    if jax.process_count() == 1:
        return state
    return jax.tree.map(_sum_over_hosts, state)


def _sum_over_hosts(leaf):
    array = np.asarray(leaf)
    sent = np.frombuffer(array.tobytes(), np.uint8)
    received = np.asarray(multihost_utils.process_allgather(sent))  # [hosts, bytes]
    parts = np.frombuffer(received.tobytes(), array.dtype).reshape(-1, *array.shape)
    total = parts.sum(axis=0)
    return total if array.ndim else total.item()
