"""The base of the API's tokenizers: a module with its parameters, and calls of its methods."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from toklip_jax.api.program import Method, apply_method, map_chunks, mesh_of, run_method
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_type
from toklip_jax.models.registry import count_params, family_of
from toklip_jax.nn.config import Compute

Model = TypeVar("Model", bound="LoadedModel")


class LoadedModel:
    """A model with its parameters.

    Its methods can be traced: by `jax.jit`, `jax.vmap`, `jax.shard_map`, and by `jax.grad` wherever
    a gradient exists. To trace the parameters too, use `apply`, or `with_params`.

    Inputs are checked. Values of arrays on a device are checked the first time that a method gets
    some, and not waited for after that.

    Attributes:
        config: the model's sizes.
        model: the Linen module.
        params: nested dict of arrays.
        batch_size: how many rows are computed at a time; None takes all at once. Larger inputs are
            taken in chunks, the last of them padded, so that memory is bounded and one program is
            compiled. Traced and sharded inputs are taken whole.
    """

    def __init__(
        self,
        config: Any,
        params: dict[str, Any],
        compute: Compute,
        batch_size: int | None = None,
    ):
        self.config = config
        self.params = params
        self.model = family_of(config).build(config, compute)
        self.batch_size = batch_size
        self._mesh = mesh_of(params)
        self._have_checked: set[str] = set()  # methods, of the values of arrays on a device

    @property
    def batch_size(self) -> int | None:
        """How many rows are computed at a time, or None; it may be set."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int | None):
        check_type(batch_size, int | None, "batch_size")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"expected a batch_size of at least 1, got {batch_size}")
        self._batch_size = batch_size

    @property
    def param_bytes(self) -> int:
        """The size of the parameters, all devices together."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))

    def apply(self, params: dict[str, Any], inputs: Any, method: str) -> jax.Array:
        """Returns a method of the module with `params` in place of the model's: a pure function.

        Features are not normalised, and images not clipped.

        Args:
            inputs: inputs of the form that the method of this name takes.
            method: name of one of the methods that take a single input.

        Raises:
            ValueError: an unknown method, or inputs that don't fit it.
        """
        methods = self._methods()
        found = methods[check_name("method", method, methods)]
        return apply_method(self.model, params, self._check(found, inputs), found)

    def with_params(self: Model, params: dict[str, Any]) -> Model:
        """Returns the same model with other parameters, traced ones for example."""
        other = copy.copy(self)
        other.params, other._mesh = params, mesh_of(params)
        return other

    def _methods(self) -> Mapping[str, Method]:
        """The module's methods that take a single input, by name."""
        raise NotImplementedError

    def _call(self, name: str, inputs: Any) -> jax.Array:
        """Returns a method's result."""
        return self._map(name, inputs, lambda chunk: self._run(name, chunk))

    def _map(self, name: str, inputs: Any, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Returns `function` of the inputs of a method, chunk by chunk."""
        method = self._methods()[name]
        inputs = self._check(method, inputs)
        return map_chunks(function, inputs, method.inputs, self.batch_size, self._mesh)

    def _check(self, method: Method, inputs: Any) -> Any:
        """Returns the inputs of a method, checked."""
        inputs = method.inputs.check(inputs)
        is_on_device = isinstance(inputs, jax.Array) and not isinstance(inputs, jax.core.Tracer)
        is_first = method.name not in self._have_checked
        if is_on_device and is_first and inputs.is_fully_addressable:
            method.inputs.check_values(jax.device_get(inputs))
            self._have_checked.add(method.name)
        return inputs

    def _run(self, name: str, inputs: Any) -> jax.Array:
        """Returns a method's result of one checked chunk."""
        return run_method(self.model, self.params, inputs, self._methods()[name])

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_mesh"}

    def __setstate__(self, state):
        self.__dict__.update(state, _mesh=mesh_of(state["params"]))

    def __repr__(self):
        millions = count_params(self.config) / 1e6
        dtype = self.model.compute.dtype
        family = family_of(self.config).name
        return f"{type(self).__name__}({family}, {millions:.1f} M parameters, {dtype})"
