"""Runs a model's methods: as pure functions, compiled, on sharded inputs, and in chunks."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from toklip_jax.api.inputs import Inputs
from toklip_jax.parallel.sharding import AXES, batch_sharding, batch_ways, to_host

LEAST_ROWS_ON_GPU = 16


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a module, with all that is fixed when it is compiled.

    Attributes:
        inputs: the kind of its one input.
        options: its other arguments, which are hashable, by name.
    """

    name: str
    inputs: Inputs
    options: tuple[tuple[str, Any], ...] = ()


def apply_method(model: nn.Module, params: Any, inputs: Any, method: Method) -> jax.Array:
    """Returns a method of checked inputs, floats as float32; pure and traceable.

    Where the model's activations are float32, products are at the highest precision: accelerators
    would otherwise round their factors to bfloat16.
    """
    inputs, options = method.inputs.prepare(inputs), dict(method.options)
    with jax.default_matmul_precision(precision(model)):
        out = model.apply({"params": params}, inputs, method=method.name, **options)
    return out.astype(jnp.float32) if jnp.issubdtype(out.dtype, jnp.floating) else out


def run_method(model: nn.Module, params: Any, inputs: Any, method: Method) -> jax.Array:
    """Returns `apply_method`, compiled once for each shape and type.

    Inputs that are sharded along their first axis give results that are sharded so.
    """
    return _run(_placement(inputs), model, method, params, inputs)


def map_chunks(
    function: Callable[[jax.Array], jax.Array],
    inputs: Any,
    kind: Inputs,
    batch_size: int | None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns `function` of inputs, which is run on `batch_size` rows at a time.

    The last chunk is padded with copies of its last row, so that one program does for all numbers
    of rows. Traced and sharded inputs are taken whole.

    Args:
        inputs: checked inputs of this kind.
        batch_size: None takes all rows at once.
        mesh: the mesh over which chunks from the host are sharded, along their first axis.
    """
    # The length of what is traced may be a symbol, which is no number.
    if batch_size is None or is_whole(inputs) or not len(inputs):
        return function(_put(inputs, kind, mesh))
    rows, out, pending = len(inputs), None, None
    for start in range(0, rows, batch_size):
        chunk = _chunk(inputs, start, min(batch_size, rows - start), kind, batch_size)
        result = function(_put(chunk, kind, mesh))
        if out is None:
            out = np.empty((rows, *result.shape[1:]), result.dtype)
        _store(out, pending)  # while the device is busy with this one
        pending = start, result
    _store(out, pending)
    return jnp.asarray(out)


def map_rows(
    function: Callable[..., Any],
    arrays: Sequence[Any],
    size: int,
    put: Callable[[Any], Any] = lambda rows: rows,
) -> Any:
    """Returns `function` of arrays, which is run on `size` rows of each at a time.

    The last chunk is padded with copies of its last row, so that one program does for all numbers
    of rows.

    Args:
        function: gives an array with these rows, or a tuple of such.
        arrays: with as many rows each; an array may be None, and stays so.
        put: places the rows of an array on devices.
    """
    count, out = len(arrays[0]), None
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        chunk = [x if x is None or size == count else x[rows] for x in arrays]
        parts = function(*(None if x is None else put(x) for x in chunk))
        if out is None:
            out = jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), parts)
        for whole, part in zip(jax.tree.leaves(out), jax.tree.leaves(parts), strict=True):
            _store(whole, (start, part))
    return jax.tree.map(jnp.asarray, out)


def put_rows(rows: Any, mesh: Mesh | None) -> Any:
    """Returns rows, sharded over a mesh if its devices divide them, else whole on each of them."""
    if mesh is None:
        return rows
    is_divisible = len(rows) % batch_ways(mesh) == 0
    sharding = batch_sharding(mesh) if is_divisible else NamedSharding(mesh, P())
    return jax.device_put(rows, sharding)


def is_whole(inputs: Any) -> bool:
    """Returns whether inputs are taken whole, not in chunks: they are traced or sharded."""
    if not isinstance(inputs, jax.Array):
        return False
    return is_traced(inputs) or not isinstance(inputs.sharding, SingleDeviceSharding)


def is_traced(tree: Any) -> bool:
    """Returns whether an array of a tree, such as parameters, is traced."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def mesh_of(params: Any) -> Mesh | None:
    """Returns the mesh that parameters are sharded over, or None."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            if isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1:
                return leaf.sharding.mesh
            return None
    return None


def platform_of(params: Any) -> str:
    """Returns the platform of parameters, such as "gpu"; JAX's default for host arrays."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            return next(iter(leaf.devices())).platform
    return jax.default_backend()


def placed(model: nn.Module, mesh: Mesh | None, run: Callable[[], Any]) -> Any:
    """Returns `run()`, with the precision of the model, and on the mesh if there is one."""
    with jax.default_matmul_precision(precision(model)):
        if mesh is None:
            return run()
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return run()


def precision(model: nn.Module) -> str | None:
    """Returns the precision of products: the highest where the activations are float32."""
    return "highest" if model.compute.dtype == "float32" else None


def bucket(rows: int, mesh: Mesh | None, platform: str) -> int:
    """Returns the next power of two, as a multiple of the devices that share a batch.

    At least `LEAST_ROWS_ON_GPU` there: a product with one row, which XLA writes as a reduction,
    takes longer on a GPU than one with 16 (GPT-XL: 734 against 475 ms an image of 256 ids).
    """
    size = max(1 << (rows - 1).bit_length(), LEAST_ROWS_ON_GPU if platform == "gpu" else 1)
    ways = 1 if mesh is None else batch_ways(mesh)
    return -(-size // ways) * ways


@dataclasses.dataclass(frozen=True)
class Placement:
    """The sharding of inputs: over `mesh`, along their first axis by `axes`."""

    mesh: AbstractMesh
    axes: str | tuple[str, ...] | None

    def run(self, function: Callable[..., jax.Array], params: Any, inputs: Any) -> jax.Array:
        """Returns `function(params, inputs)`, sharded as the inputs are; traced.

        The package's own meshes go with the models' constraints, and parameters may be sharded
        over them. On others each device computes its rows, with all of the parameters.
        """
        is_ours = self.mesh.axis_names == AXES and set(self.mesh.axis_types) == {AxisType.Auto}
        if is_ours:
            with jax.sharding.use_abstract_mesh(self.mesh):
                out = function(params, inputs)
                return jax.lax.with_sharding_constraint(out, P(self.axes))
        rows = P(self.axes)
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(P(), rows),
            out_specs=rows,
            check_vma=False,
        )(params, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(placement, model, method, params, inputs):
    def apply(params, inputs):
        return apply_method(model, params, inputs, method)

    return placement.run(apply, params, inputs) if placement else apply(params, inputs)


def _placement(inputs) -> Placement | None:
    """Returns how inputs are sharded; None unless it is along the first axis alone.

    Of traced inputs that is known on meshes of explicit axes only.
    """
    if not isinstance(inputs, jax.Array):
        return None
    is_traced = isinstance(inputs, jax.core.Tracer)
    sharding = jax.typeof(inputs).sharding if is_traced else inputs.sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None
    axes, *others = (*sharding.spec, None)
    is_manual = AxisType.Manual in sharding.mesh.axis_types
    if is_manual or any(other is not None for other in others) or (is_traced and axes is None):
        return None
    return Placement(sharding.mesh.abstract_mesh, axes)


def _chunk(inputs, start, count, kind, batch_size):
    """`count` rows, and copies of the last up to `batch_size`."""
    padding = batch_size - count
    if isinstance(inputs, jax.Array):
        rows = np.minimum(np.arange(start, start + batch_size), start + count - 1)
        return jnp.take(inputs, rows, axis=0)
    chunk = kind.prepare(inputs[start : start + count])
    return np.concatenate([chunk, np.repeat(chunk[-1:], padding, axis=0)]) if padding else chunk


def _put(inputs, kind, mesh):
    """Inputs from the host, prepared there and put on the mesh; others as they are."""
    return inputs if isinstance(inputs, jax.Array) else put_rows(kind.prepare(inputs), mesh)


def _store(out, pending):
    if pending is not None:
        start, result = pending
        count = min(len(result), len(out) - start)
        out[start : start + count] = to_host(result)[:count]
