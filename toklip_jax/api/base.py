"""The bases of the API's classes: a module with its parameters, and calls of its methods."""

import copy
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jaxtyping import Array, Float

from toklip_jax.api.program import Method, apply_method, map_chunks, mesh_of, run_method
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_type
from toklip_jax.core.home import expand_user
from toklip_jax.models.base import VQConfig
from toklip_jax.models.registry import count_params, family_of
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_uint8
from toklip_jax.weights import Weights, save_weights

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
        origin: what `load` read beside the parameters, which `save` writes again; or None.
    """

    origin: Weights | None = None
    _load: ClassVar[Callable[..., "LoadedModel"]]  # `load`, which knows all classes and says so
    _text_tokenizer: Any = None

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

    @classmethod
    def from_pretrained(cls: type[Model], name: str | pathlib.Path, **options: Any) -> Model:
        """Returns `load(name, **options)`: an alias, for those who are used to it.

        Raises:
            ValueError: weights that `load` makes another class of; and what `load` raises.
        """
        model = cls._load(name, **options)
        if not isinstance(model, cls):
            raise UserError(
                f"expected the weights of a {cls.__name__}, got {name}, which gives {model!r}: "
                f"take {type(model).__name__}.from_pretrained, or toklip_jax.load"
            )
        return model

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes a directory that `load` reads back bit-exact, as `convert to-jax` writes it.

        It holds the parameters in the types that they are kept in, the text tokenizer, and what
        else the weights came with. Every host of a program must call it.

        Args:
            directory: a new one; nothing is overwritten.

        Raises:
            FileExistsError: something is there already.
            ValueError: parameters that are traced, of whole numbers (int8), or not finite.
        """
        for leaf in jax.tree.leaves(self.params):
            if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise UserError(
                    f"expected parameters of floating-point numbers to save, got {leaf.dtype} or "
                    f"traced ones: save outside of transformations, and load without int8"
                )
        kept = self.origin or Weights(self.config, {}, is_scanned=False)
        with tempfile.TemporaryDirectory() as folder:
            text = self._text_tokenizer
            weights = dataclasses.replace(
                kept,
                config=self.config,
                params=self.params,
                is_scanned=self.model.compute.is_scanned,
                tokenizer_path=None if text is None else text.save(folder),
                beside=self._beside(),
            )
            save_weights(expand_user(directory), weights)

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

    def _beside(self) -> tuple[pathlib.Path, ...]:
        """The other files that belong to the weights."""
        return () if self.origin is None else self.origin.beside

    def _sizes(self) -> list[str]:
        """The sizes that tell the model from others, for people."""
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
        family = family_of(self.config)
        named = [name for name, config in family.sizes.items() if config == self.config]
        millions = f"{count_params(self.config) / 1e6:,.1f} M parameters"
        facts = [family.name, *named[:1], *self._sizes(), millions, self.model.compute.dtype]
        return f"{type(self).__name__}({', '.join(facts)})"


class ImageModel(LoadedModel):
    """A model that takes images.

    Images are a list of Pillow images or of paths of image files, which are resized as `load`'s
    argument `resize` says; or an array [b, h, w, 3], RGB, uint8 or float in [-1, 1]. One image may
    stand alone: a Pillow image, a path, or an array [h, w, 3]. It is taken as a batch of one, so
    that results always have a batch axis. Arrays on a device stay there.
    """

    _reads_images: ClassVar[str] = "tokenize"  # the method whose images they are

    def preprocess(self, images: Any) -> Float[Array | np.ndarray, "b *size 3"]:
        """Returns images as the model sees them, resized, float32 in [-1, 1].

        All methods do it to the images that they get: an alias, to look at or to keep.

        Raises:
            ValueError: another shape, type or range; or a generator that has no tokenizer.
            FileNotFoundError: a path at which there is no file.
        """
        if self._reads_images not in self._methods():
            raise UserError(f"expected a model with its tokenizer, got {self!r}: load it with vq=")
        method = self._methods()[self._reads_images]
        return method.inputs.prepare(self._check(method, images))

    @staticmethod
    def to_pil(images: Any) -> list[PIL.Image.Image]:
        """Returns Pillow images of an array, such as `detokenize` and `preprocess` return.

        Args:
            images: float in [-1, 1], which is clipped, or uint8, [b, h, w, 3]; or one, [h, w, 3],
                which gives a list of one.

        Raises:
            ValueError: another shape or type.
        """
        array = np.asarray(images)
        is_float = jnp.issubdtype(array.dtype, jnp.floating)
        if (
            array.ndim not in (3, 4)
            or array.shape[-1] != 3
            or not (is_float or array.dtype == np.uint8)
        ):
            raise UserError(
                f"expected images [b, h, w, 3] of floats in [-1, 1] or uint8, got {array.dtype} "
                f"{array.shape}"
            )
        levels = to_uint8(array) if is_float else array
        return [PIL.Image.fromarray(image) for image in levels.reshape(-1, *levels.shape[-3:])]


def ids_text(vq: VQConfig, places: int | None = None) -> str:
    """Returns what a tokenizer's ids are, for people: "256 ids of 16,384"."""
    sizes = sorted(set(vq.codebook_sizes))
    numbers = [] if places is None else [f"{places:,}"]
    numbers += [] if vq.codes_per_place == 1 else [str(vq.codes_per_place)]
    place = " a place" if places is None and vq.codes_per_place > 1 else ""
    kind = " and ".join(f"{size:,}" for size in sizes)
    return f"{' x '.join(numbers)} ids of {kind}{place}".lstrip()
