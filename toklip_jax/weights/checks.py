"""Checks of weights that every way of reading and writing them shares."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files import AnyLazy, LazyArray, is_finite, is_same


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Adds the path that is read to the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"can't use {path}: {error}") from error


def expect_finite(
    arrays: Mapping[str, AnyLazy], release: Callable[[], None] = lambda: None
) -> None:
    """Raises ValueError where parameters are NaN or infinite; names the first of them."""
    faults = [printable(name) for name, array in arrays.items() if not is_finite(array, release)]
    if faults:
        shown = ", ".join(faults[:4]) + (", ..." if len(faults) > 4 else "")
        raise UserError(
            f"expected finite numbers, got NaN or infinity in {len(faults)} tensors ({shown}): "
            f"take weights from before training diverged, or a copy that is not in half precision"
        )


def expect_copies(
    tensors: Mapping[str, AnyLazy], repeated: Mapping[str, str], release: Callable[[], None]
) -> None:
    """Checks that tensors are what they repeat, byte for byte; looks at them slice by slice.

    Args:
        repeated: the name of a tensor, and that of the one it repeats.

    Raises:
        ValueError: one is not: names both.
    """
    for name, other in repeated.items():
        if not is_same(tensors[name], tensors[other], release):
            raise UserError(
                f"expected {printable(name)} to be a copy of {printable(other)}, as in a model "
                f"whose head is its embedding, got other numbers: if they are apart, say "
                f'"tie_word_embeddings": false in config.json beside the weights'
            )


def finite(name: str, array: AnyLazy) -> LazyArray:
    """Returns a parameter, checked by `expect_finite` when it is read."""

    def read():
        made = np.asarray(array)
        expect_finite({name: made})
        return made

    return LazyArray(tuple(array.shape), array.dtype, read)
