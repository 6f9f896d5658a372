"""The mesh, and the rules for sharding parameters, batches and activations over it."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import from_fields

CPU_FLAG = "xla_force_host_platform_device_count"
AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # axes that a batch is split over
BATCH = P(BATCH_AXES)
AnyMesh = Mesh | AbstractMesh  # of devices, or of the shape alone
Rules = Sequence[tuple[str, tuple[str | None, ...]]]

# Path pattern -> axes of the last dimensions; a scanned layout's leading layer axis stays whole.
# The first match counts, and what matches none is replicated. An axis that does not divide its
# dimension is dropped, so that one table serves every size.
RULES = (
    (r".*/attn/qkv/kernel", ("fsdp", None, "tensor", None)),  # [d, 3, k, e]
    (r".*/(attn|pool)/proj/kernel", ("tensor", None, "fsdp")),  # [k, e, d]
    (r".*/(attn|pool)/q/kernel", ("fsdp", "tensor", None)),  # [d, k, e]
    (r".*/attn/(k|v)/kernel", ("fsdp", "tensor", None)),  # [d, g, e]
    (r".*/pool/kv/kernel", ("fsdp", None, "tensor", None)),  # [d, 2, k, e]
    (r".*/(fc1|gate)/kernel", ("fsdp", "tensor")),  # [d, hidden]
    (r".*/fc2/kernel", ("tensor", "fsdp")),  # [hidden, d]
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; one may be -1 and takes the devices that are left.

    Attributes:
        data: splits the batch.
        fsdp: splits the batch, and with it parameters and optimizer.
        tensor: splits within layers.
        adapts: whether fsdp and tensor are the most that is wanted, so that one config starts on
            any number of devices: each becomes the greatest divisor that it has in common with the
            devices that are left, and data, which must be -1, takes the rest.
        cpu_devices: as how many devices a CPU computes where there is no accelerator; 0 leaves it
            to JAX, which takes one. Small models train faster on one for each two or fewer cores
            (docs/performance.md). What `XLA_FLAGS` or `JAX_NUM_CPU_DEVICES` says goes before it.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    adapts: bool = False
    cpu_devices: int = 0

    def __post_init__(self):
        sizes = self.sizes
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise UserError(
                f"expected mesh sizes of at least 1, one of which may be -1, got {self.to_dict()}"
            )
        if self.cpu_devices < 0:
            raise UserError(f"expected mesh.cpu_devices of at least 0, got {self.cpu_devices}")
        if self.adapts and self.data != -1:
            raise UserError(
                f"expected mesh.data=-1 with mesh.adapts, got {self.data}: set it, or adapts=False"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(getattr(self, axis) for axis in AXES)

    def to_dict(self) -> dict[str, int]:
        """Returns the sizes by axis."""
        return dict(zip(AXES, self.sizes, strict=True))


def make_mesh(config: MeshConfig | Mapping[str, int], devices: list | None = None) -> Mesh:
    """Returns a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
        config: sizes of the axes, or a mapping of them.
        devices: all devices by default.

    Raises:
        ValueError: an unknown axis, or sizes that don't multiply to the number of devices.
    """
    if not isinstance(config, MeshConfig):
        config = from_fields(MeshConfig, config, "mesh")
    if devices is None:
        _divide_cpu(config.cpu_devices)
        devices = jax.devices()
    shape = mesh_sizes(config, len(devices))
    # jax.make_mesh lets one axis of a TPU's torus be split over two of ours on v5e only, and
    # refuses 32 x 8 on a v6e's 16 x 16.
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def local_mesh() -> Mesh | None:
    """Returns a mesh that splits batches over this process's devices; None where it has one."""
    devices = jax.local_devices()
    return make_mesh({"data": len(devices)}, devices) if len(devices) > 1 else None


def mesh_sizes(config: MeshConfig, num_devices: int) -> tuple[int, ...]:
    """Returns the sizes of `AXES` on so many devices.

    Raises:
        ValueError: sizes that don't multiply to the number of devices.
    """
    fitting = _fitting(config, num_devices)
    shape = list(fitting.values() if config.adapts else config.sizes)
    if -1 in shape:
        shape[shape.index(-1)] = num_devices // -math.prod(shape)
    if min(shape) < 1 or math.prod(shape) != num_devices:
        flags = [
            f"--config.mesh.{axis}={size}"
            for axis, size in fitting.items()
            if size != getattr(config, axis)
        ]
        raise UserError(
            f"expected mesh sizes that multiply to {num_devices} devices (one may be -1), got "
            f"{config.to_dict()}: set {fitting}, on a command line {' '.join(flags)}"
        )
    return tuple(shape)


def describe_mesh(config: MeshConfig, mesh: AnyMesh) -> str:
    """Returns a line about a mesh, and about how it differs from its config's sizes."""
    sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
    asked = config.to_dict()
    fewer = [f"{a} {asked[a]}" for a in AXES if asked[a] not in (-1, mesh.shape[a])]
    note = f" (for up to {' and '.join(fewer)}, as the config asks, take more)" if fewer else ""
    return f"{mesh.size} device{'s' * (mesh.size > 1)}, as {sizes}{note}"


def _divide_cpu(count: int) -> None:
    """Makes the CPU so many devices, unless something else says how many or it is already in use.

    XLA spreads one device's work over all cores too, but waits for all after each operation.
    """
    is_said = jax.config.jax_num_cpu_devices > 0 or CPU_FLAG in os.environ.get("XLA_FLAGS", "")
    if not count or is_said:
        return
    with contextlib.suppress(RuntimeError):  # in use: the mesh then takes the devices as they are
        jax.config.update("jax_num_cpu_devices", count)


def _fitting(config: MeshConfig, num_devices: int) -> dict[str, int]:
    """Returns sizes like a config's that fit the devices: `data` takes what the others leave."""
    sizes = {"data": -1}
    for axis in ("tensor", "fsdp"):
        sizes[axis] = math.gcd(max(getattr(config, axis), 1), num_devices)
        num_devices //= sizes[axis]
    return {axis: sizes[axis] for axis in AXES}


def shardings(tree: Any, mesh: AnyMesh, rules: Rules = ()) -> Any:
    """Returns the `NamedSharding` of every leaf of parameters, or of a state made of them.

    Args:
        rules: the model family's rules, which go before `RULES`.
    """
    rules = (*rules, *RULES)

    def one(path, leaf):
        name = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of batches: over `data` and `fsdp` along their first axis."""
    return NamedSharding(mesh, BATCH)


def batch_ways(mesh: AnyMesh) -> int:
    """Returns the number of parts that `batch_sharding` splits a batch into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Constrains the sharding of an activation on the mesh of `jax.set_mesh`; without a mesh, or on
    one device, it returns `x`.

    Args:
        axes: one entry a dimension: a mesh axis or several, or None, which keeps the dimension
            whole on every device. Where the devices don't divide a dimension, or an axis is not the
            compiler's to place (inside `shard_map`), the compiler is left to choose.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Auto not in mesh.axis_types:
        return x
    return jax.lax.with_sharding_constraint(
        x, P(*(_entry(a, n, mesh) for a, n in zip(axes, x.shape, strict=True)))
    )


def map_sharded_rows(function: Callable[..., Any], rows: jax.Array, *whole: jax.Array) -> Any:
    """Returns `function(rows, *whole)`, on each device for its own rows if a mesh is in context.

    It is for what the compiler would not split: loops over rows, and kernels.

    Args:
        function: row by row; its results have the rows first.
        rows: split over `data` and `fsdp` along the first axis.
        whole: arrays of which every device gets all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or _entry(BATCH_AXES, len(rows), mesh) != BATCH_AXES:
        return function(rows, *whole)
    specs = (BATCH, *(P() for _ in whole))
    return jax.shard_map(function, in_specs=specs, out_specs=BATCH, check_vma=False)(rows, *whole)


def put_batch(batch: Any, mesh: AnyMesh) -> Any:
    """Returns global arrays made from this process's rows of a batch.

    Raises:
        ValueError: the devices don't divide the batch.
    """
    ways = batch_ways(mesh)
    rows = len(jax.tree.leaves(batch)[0]) * jax.process_count()
    if rows % ways:
        raise UserError(
            f"expected a batch size divisible by {ways} (mesh axes data and fsdp), got {rows}"
        )
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def to_host(tree: Any) -> Any:
    """Returns whole arrays as NumPy's on every host."""

    def one(x):
        # Gathering an array that every host has whole would repeat it once for each host.
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


def _entry(axes, size: int, mesh: AnyMesh):
    """Returns the partition spec's entry for one dimension of an activation."""
    if axes is None:
        return None
    names = (axes,) if isinstance(axes, str) else axes
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    is_placed = all(types.get(name) == AxisType.Auto for name in names)
    if not is_placed or size % math.prod(mesh.shape[name] for name in names):
        return P.UNCONSTRAINED
    return axes


def _spec(name: str, shape: tuple[int, ...], mesh: AnyMesh, rules: Rules) -> P:
    for pattern, axes in rules:
        if re.fullmatch(pattern, name) and len(axes) <= len(shape):
            axes = (None,) * (len(shape) - len(axes)) + axes
            fits = [
                a if a and n % mesh.shape[a] == 0 else None
                for a, n in zip(axes, shape, strict=True)
            ]
            return P(*fits)
    return P()
