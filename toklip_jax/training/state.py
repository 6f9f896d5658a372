"""The training state, and the split of parameters into trainable and frozen."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import Rules, shardings

Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """The state that a step changes and a checkpoint saves, without frozen parameters.

    Attributes:
        step: number of updates done, int32 scalar.
        params: the trainable parameters, float32.
        opt_state: optax's state of them.
        ema: running mean of `params`, or None.
        skipped: number of steps that changed nothing, as loss or gradient was not finite.

    The leaves' types are left open: the same structure also holds shapes and shardings.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any = None
    skipped: Any = 0


def cast_frozen(frozen: Params, compute: Compute, full_precision: Sequence[str] = ()) -> Params:
    """Returns frozen parameters in the compute type, which may halve their memory.

    The towers would cast them at every use; here it is done once. Scalars are not cast: rounding a
    logit scale changes the loss and saves nothing.

    Args:
        full_precision: patterns of those that are not cast.
    """
    dtype = compute.jax_dtype

    def is_kept(name, x):
        return not x.ndim or any(re.fullmatch(pattern, name) for pattern in full_precision)

    flat = flax.traverse_util.flatten_dict(frozen, sep="/")
    cast = {name: x if is_kept(name, x) else x.astype(dtype) for name, x in flat.items()}
    return flax.traverse_util.unflatten_dict(cast, sep="/")


def place(params: Params, mesh: jax.sharding.Mesh, rules: Rules = ()) -> Params:
    """Returns parameters sharded over the mesh; each host reads only what its devices hold."""

    def put(x, sharding):
        if isinstance(x, jax.Array):
            return jax.device_put(x, sharding)
        whole = np.asarray(x)  # of a mapped file a view, read slice by slice below
        return jax.make_array_from_callback(x.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, params, shardings(params, mesh, rules))


def partition(params: Params, trainable: Sequence[str]) -> tuple[Params, Params]:
    """Splits parameters into (trainable, frozen): paths that match one of the patterns, the rest.

    Patterns are regular expressions over slash paths, such as `token_encoder/.*`.

    Raises:
        ValueError: a pattern matches nothing.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for pattern in trainable:
        if not any(re.fullmatch(pattern, name) for name in flat):
            tops = sorted({name.split("/")[0] for name in flat})
            raise UserError(f"expected a pattern of parameters under {tops}, got {pattern!r}")
    return split(params, {n for n in flat if any(re.fullmatch(p, n) for p in trainable)})


def split(params: Params, names: Collection[str]) -> tuple[Params, Params]:
    """Splits parameters into (those of these slash paths, the rest)."""
    flat, names = flax.traverse_util.flatten_dict(params, sep="/"), set(names)
    halves = ({n: v for n, v in flat.items() if (n in names) == is_in} for is_in in (True, False))
    return tuple(flax.traverse_util.unflatten_dict(half, sep="/") for half in halves)


def with_zeros(params: Params, unused: Params) -> Params:
    """Returns `params` with zeros for those of `unused`, which are shapes; traceable.

    It is for models that read parameters which they don't use; unused zeros are not computed.
    """
    return merge(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), unused), params)


def shapes_of(tree: Any) -> Any:
    """Returns the shapes and types of all arrays of a tree."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def merge(trainable: Params, frozen: Params) -> Params:
    """Undoes `partition`."""
    merged = dict(frozen)
    for name, value in trainable.items():
        is_both = isinstance(value, dict) and name in frozen
        merged[name] = merge(value, frozen[name]) if is_both else value
    return merged
