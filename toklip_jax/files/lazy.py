"""Arrays that are computed when they are read, and not kept; and copies made slice by slice."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from toklip_jax.core.errors import UserError

SLICE_BYTES = 2**24  # that `read_array` copies at a time
ALIGNMENT = 64  # bytes; arrays that start at a multiple are taken over by CPU devices uncopied


@dataclasses.dataclass(frozen=True, eq=False)
class LazyArray:
    """An array of known shape and dtype; `np.asarray` computes it, every time."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def astype(self, dtype: np.dtype) -> np.ndarray:
        return np.asarray(self, dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        made = np.asarray(self.make(), dtype)
        return made.copy() if copy else made


AnyLazy = np.ndarray | jax.Array | LazyArray


def lazy_stack(arrays: Sequence[AnyLazy]) -> LazyArray:
    """Returns `np.stack(arrays)`, later.

    Raises:
        ValueError: the arrays are of several types.
    """
    first = arrays[0]
    if len(dtypes := {str(array.dtype) for array in arrays}) > 1:
        raise UserError(
            f"expected arrays of one type to stack, got {sorted(dtypes)}: keep layers "
            f"apart (--layout=unrolled), or save them in one type"
        )
    return LazyArray((len(arrays), *first.shape), first.dtype, lambda: np.stack(arrays))


def releasing(arrays: Mapping[str, AnyLazy], release: Callable[[], None]) -> dict[str, LazyArray]:
    """Returns arrays that call `release` before each is read: what reading the last took goes."""

    def lazy(array):
        def make():
            release()
            return np.asarray(array)

        return LazyArray(tuple(array.shape), array.dtype, make)

    return {name: lazy(array) for name, array in arrays.items()}


def read_array(
    array: AnyLazy, dtype: np.dtype, release: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Returns a copy of `array` as `dtype`, cast slice by slice: never two copies at once.

    Args:
        array: a view of a mapped file, for example.
        release: called after each slice, to let go of the memory that reading it took.
    """
    source = np.asarray(array)
    out = _aligned_empty(source.shape, dtype)
    axis = _slowest_axis(source)
    for part, out_part in zip(_parts(source, axis), _parts(out, axis, like=source), strict=True):
        out_part[...] = part
        release()
    return out


def is_finite(array: AnyLazy, release: Callable[[], None] = lambda: None) -> bool:
    """Tells whether no entry of `array` is NaN or infinite; looks at it slice by slice.

    Args:
        release: see `read_array`.
    """
    source = np.asarray(array)
    for part in _parts(source, _slowest_axis(source)):
        if not np.isfinite(part).all():
            return False
        release()
    return True


def is_same(array: AnyLazy, other: AnyLazy, release: Callable[[], None] = lambda: None) -> bool:
    """Tells whether two arrays have the same shape, type and bytes; looks at them slice by slice.

    Args:
        release: see `read_array`.
    """
    array, other = np.asarray(array), np.asarray(other)
    if (array.shape, array.dtype) != (other.shape, other.dtype):
        return False
    axis = _slowest_axis(array)
    for part, other_part in zip(_parts(array, axis), _parts(other, axis), strict=True):
        if np.ascontiguousarray(part).tobytes() != np.ascontiguousarray(other_part).tobytes():
            return False
        release()
    return True


def _parts(array, axis, like=None):
    """Slices of `array` along an axis, as many as cut `like`, or itself, into `SLICE_BYTES`."""
    slices = np.moveaxis(np.atleast_1d(array), axis, 0)
    step = max(1, SLICE_BYTES * len(slices) // max((array if like is None else like).nbytes, 1))
    return (slices[start : start + step] for start in range(0, len(slices), step))


def _slowest_axis(array):
    """The axis of the longest stride: cut along it, a file's pages are each read once."""
    strides = [abs(s) if n > 1 else 0 for s, n in zip(array.strides, array.shape, strict=True)]
    return int(np.argmax(strides)) if strides else 0


def _aligned_empty(shape, dtype):
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
