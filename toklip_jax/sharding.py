"""The mesh, and the one table that says how parameters lie on it."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # what a batch is split over
BATCH = P(BATCH_AXES)
AnyMesh = Mesh | AbstractMesh  # of devices, or of the shape alone

# Path pattern -> axes of the last dimensions; a scanned layout's leading layer axis stays whole.
# The first match counts, and what matches none is replicated. An axis that does not divide its
# dimension is dropped, so that one table serves every size.
RULES = (
    (r".*/attn/qkv/kernel", ("fsdp", None, "tensor", None)),  # [d, 3, k, e]
    (r".*/(attn|pool)/proj/kernel", ("tensor", None, "fsdp")),  # [k, e, d]
    (r".*/pool/q/kernel", ("fsdp", "tensor", None)),  # [d, k, e]
    (r".*/pool/kv/kernel", ("fsdp", None, "tensor", None)),  # [d, 2, k, e]
    (r".*/fc1/kernel", ("fsdp", "tensor")),  # [d, hidden]
    (r".*/fc2/kernel", ("tensor", "fsdp")),  # [hidden, d]
    (r".*/token_embed", ("tensor", "fsdp")),  # [v, d]
    (r".*text_tower/proj/kernel", ("fsdp", "tensor")),
)


def make_mesh(sizes: Mapping[str, int], devices: list | None = None) -> Mesh:
    """Returns a mesh with axes `data`, `fsdp`, `tensor`; one size may be -1 and takes the rest.

    Raises:
        ValueError: unknown axis, or sizes that don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if unknown := set(sizes) - set(AXES):
        raise ValueError(f"expected mesh axes of {AXES}, got {sorted(unknown)} as well")
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) == 1:
        shape[shape.index(-1)] = len(devices) // -int(np.prod(shape))
    if min(shape) < 1 or int(np.prod(shape)) != len(devices):
        raise ValueError(
            f"expected mesh sizes that multiply to {len(devices)} devices (one may be -1), got "
            f"{dict(sizes)}"
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def shardings(tree: Any, mesh: AnyMesh) -> Any:
    """Returns the `NamedSharding` of every leaf of parameters, or of a state made of them."""

    def one(path, leaf):
        name = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Batches are split over `data` and `fsdp` along their first axis."""
    return NamedSharding(mesh, BATCH)


def put_batch(batch: Any, mesh: AnyMesh) -> Any:
    """Makes global arrays of this process's rows of a batch.

    Raises:
        ValueError: the devices don't divide the batch.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = len(jax.tree.leaves(batch)[0]) * jax.process_count()
    if rows % ways:
        raise ValueError(
            f"expected a batch size divisible by {ways} (mesh axes data and fsdp), got {rows}"
        )
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def _spec(name: str, shape: tuple[int, ...], mesh: AnyMesh) -> P:
    for pattern, axes in RULES:
        if re.fullmatch(pattern, name) and len(axes) <= len(shape):
            axes = (None,) * (len(shape) - len(axes)) + axes
            fits = [
                a if a and n % mesh.shape[a] == 0 else None
                for a, n in zip(axes, shape, strict=True)
            ]
            return P(*fits)
    return P()
