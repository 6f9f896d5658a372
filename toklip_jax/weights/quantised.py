"""Weights kept as int8: a quarter of float32's memory, and of its traffic when ids are drawn."""

import dataclasses
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.core.imports import import_extra
from toklip_jax.models.base import Family
from toklip_jax.nn.config import DTYPES
from toklip_jax.weights.base import Weights
from toklip_jax.weights.placing import place_params

INT8 = "int8"


def place_model(
    weights: Weights, family: Family, param_dtype: str = "float32", mesh: Mesh | None = None
) -> dict[str, Any]:
    """Returns a model's parameters on devices, kept as the user asked and its family allows.

    Args:
        param_dtype: one of `place_params`, or "int8": see `place_int8`.
        mesh: the mesh that they are sharded over; by default all are on the first device.

    Raises:
        ValueError: as these two.
    """
    if param_dtype == INT8:
        return place_int8(weights, family, mesh)
    if family.quantised:
        check_name("param_dtype", param_dtype, [*DTYPES, INT8])
    return place_params(
        weights, param_dtype, mesh, rules=family.sharding, exact=family.full_precision
    )


def place_int8(weights: Weights, family: Family, mesh: Mesh | None = None) -> dict[str, Any]:
    """Returns a model's parameters on devices, those of `Family.quantised` as int8, others float32.

    A quantised weight is a `qwix.QArray`: whole numbers from -127 to 127, and for each output
    channel (and layer) the scale that its largest absolute value becomes 127 by. They are quantised
    one after another, so that at most one of them is there in float32.

    Args:
        mesh: the mesh that they are sharded over; by default all are on the first device.

    Raises:
        ValueError: the family has no such weights, or qwix is not installed.
    """
    if not family.quantised:
        raise UserError(
            f"expected the weights of a model that may be kept as {INT8}, TokLIP or a generator, "
            f"got those of {family.title}: choose another param_dtype"
        )
    quantise = import_extra("qwix").quantize
    placed = {}
    for path, array in flax.traverse_util.flatten_dict(weights.params, sep="/").items():
        alone = flax.traverse_util.unflatten_dict({path: array}, sep="/")
        one = dataclasses.replace(weights, params=alone)
        tree = place_params(one, mesh=mesh, rules=family.sharding, exact=family.full_precision)
        (value,) = jax.tree.leaves(tree)
        if (summed := _summed_axes(path, family)) is not None:
            kept = [i for i in range(value.ndim) if i - value.ndim not in summed]
            value = quantise(value, jnp.int8, channelwise_axes=kept)
        placed[path] = value
    return flax.traverse_util.unflatten_dict(placed, sep="/")


def _summed_axes(path, family) -> tuple[int, ...] | None:
    """The axes that products with a parameter sum over, or None where it stays as it is."""
    return next((axes for pattern, axes in family.quantised if re.fullmatch(pattern, path)), None)
