"""Batches: those that all hosts read together, and those of equal shape over host arrays."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Bool

from toklip_jax.core.errors import UserError
from toklip_jax.parallel.hosts import call_on_all
from toklip_jax.parallel.preemption import stop_if_told

T = TypeVar("T")
END = object()


def read_together(stream: Iterator[T]) -> Iterator[T]:
    """Yields a stream of this host's batches, and closes it.

    All hosts must read as many. Where one of them can't read, or was told to stop, all of them
    stop, as the others would wait for its rows.

    Raises:
        Exception: what reading raises, here or on another host.
        Preempted: told to stop.
    """
    try:
        while True:
            stop_if_told()
            batch = call_on_all(lambda: next(stream, END))
            if batch is END:
                return
            yield batch
    finally:
        if hasattr(stream, "close"):
            stream.close()


def padded_batches(
    arrays: tuple[np.ndarray, ...], batch_size: int
) -> Iterator[tuple[tuple[np.ndarray, ...], Bool[np.ndarray, " b"]]]:
    """Yields batches of `batch_size` rows of each array, and the mask of rows that count.

    The last batch is filled up with its last row. With fewer rows than `batch_size` in all, the
    one batch has as many.

    Raises:
        ValueError: the arrays are empty or differ in length.
    """
    num_rows = _num_rows(arrays)
    batch_size = min(batch_size, num_rows)
    for start in range(0, num_rows, batch_size):
        rows = np.arange(start, start + batch_size)
        inside = np.minimum(rows, num_rows - 1)
        yield tuple(array[inside] for array in arrays), rows < num_rows


def map_batches(
    function: Callable[..., Any], arrays: tuple[np.ndarray, ...], batch_size: int
) -> Any:
    """Applies `function` to batches of `arrays` and joins its results along their first axis.

    Args:
        function: takes one batch per array; returns an array, or a tree of them, of `batch_size`
            rows.
        arrays: equally long.
        batch_size: rows a call.

    Returns:
        NumPy arrays, one row per row of `arrays`.
    """
    results = [
        jax.tree.map(lambda x, mask=mask: np.asarray(x)[mask], function(*batch))
        for batch, mask in padded_batches(arrays, batch_size)
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _num_rows(arrays):
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or lengths == {0}:
        raise UserError(
            f"expected arrays of one length above 0, got lengths {[len(a) for a in arrays]}"
        )
    return lengths.pop()
