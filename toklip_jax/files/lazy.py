"""Arrays that are computed when they are looked at, and not kept."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LazyArray:
    """An array of known shape and dtype; `np.asarray` makes it, each time anew."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        made = np.asarray(self.make(), dtype)
        return made.copy() if copy else made


AnyLazy = np.ndarray | jax.Array | LazyArray


def lazy_stack(arrays: Sequence[AnyLazy]) -> LazyArray:
    """Returns `np.stack(arrays)`, later."""
    first = arrays[0]
    return LazyArray((len(arrays), *first.shape), first.dtype, lambda: np.stack(arrays))
