"""Parameters from files onto devices: each device reads its part, and no second copy is made."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.files import read_array
from toklip_jax.nn.config import DTYPES
from toklip_jax.parallel.sharding import Rules, shardings
from toklip_jax.weights.base import Weights


def place_params(
    weights: Weights,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    rules: Rules = (),
    exact: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns a model's parameters on devices, cast slice by slice as they are read.

    Args:
        dtype: the type that they are kept in. Scalars stay float32: rounded to bfloat16, a logit
            scale of 100 would be 98.9.
        mesh: the mesh that they are sharded over, each device reading its own slice of the file; by
            default all are on the first device.
        rules: the model family's rules for the sharding.
        exact: patterns of the slash paths of parameters that stay float32.

    Raises:
        ValueError: an unknown dtype, or parameters that are no floating-point numbers or too large
            for float16.
    """
    check_name("param_dtype", dtype, DTYPES)
    flat = flax.traverse_util.flatten_dict(weights.params, sep="/")
    placements = flax.traverse_util.flatten_dict(
        shardings(weights.params, mesh, rules) if mesh else dict.fromkeys(flat), sep="/"
    )
    placed = {}
    for path, array in flat.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"expected parameters of floating-point numbers, got {array.dtype} for {path}: "
                f"quantised weights are not supported; export them as float"
            )
        is_exact = not array.shape or any(re.fullmatch(pattern, path) for pattern in exact)
        kept = DTYPES["float32" if is_exact else dtype]
        with _naming(path):
            placed[path] = _place(array, kept, placements[path], weights.release)
    return flax.traverse_util.unflatten_dict(placed, sep="/")


@contextlib.contextmanager
def _naming(path):
    """Turns the overflow of a cast to float16 into an error that names the parameter."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as error:
        raise UserError(
            f"expected numbers that float16 can hold, got larger ones for {path}: choose "
            f"param_dtype='bfloat16' or 'float32'"
        ) from error


def _place(array: Any, dtype: np.dtype, sharding: NamedSharding | None, release) -> jax.Array:
    if isinstance(array, jax.Array):
        array = array.astype(dtype)
        return array if sharding is None else jax.device_put(array, sharding)
    if sharding is None:
        # Not jnp.asarray, which copies: a CPU takes this array over as it is.
        return jax.device_put(read_array(array, dtype, release)).block_until_ready()
    made = {}

    def part(index):  # replicas of a slice are read once
        key = tuple((each.start, each.stop) for each in index)
        if key not in made:
            made[key] = read_array(_slice(array, index), dtype, release)
        return made[key]

    return jax.make_array_from_callback(array.shape, sharding, part).block_until_ready()


def _slice(array, index):
    return np.asarray(array)[index]
