"""How a generator's images are drawn: settings, keys, and the compiled programs."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_type
from toklip_jax.decoding import Sampling
from toklip_jax.decoding.images import sample_images
from toklip_jax.models.generator.model import GeneratorModel
from toklip_jax.parallel.sharding import BATCH_AXES


@dataclasses.dataclass(frozen=True)
class Draws:
    """How images are drawn: with which randomness, and with which settings.

    Attributes:
        key: a key of `jax.random.key`; a seed is made one.
        first_index: index of the first sample, which with the key decides what is drawn.
        negative_class: the class that guidance leads away from, or None for the null class.
        sampling: the other settings.
    """

    key: Any
    first_index: int
    negative_class: int | None
    sampling: Sampling

    def __post_init__(self):
        object.__setattr__(self, "key", _as_key(self.key))
        if isinstance(self.first_index, bool) or not isinstance(self.first_index, int | np.integer):
            raise UserError(f"expected an integer first_index, got {self.first_index!r}")
        if not 0 <= self.first_index < 2**31:
            raise UserError(f"expected a first_index in [0, 2**31), got {self.first_index}")


def read_sampling(settings: dict[str, Any]) -> Sampling:
    """Returns the settings of draws.

    Raises:
        ValueError: an unknown one (names the nearest), or a value of another type or range.
    """
    fields = {field.name: field.type for field in dataclasses.fields(Sampling)}
    for name, value in settings.items():
        check_name("a setting of sampling", name, fields)
        check_type(value, int if name in ("top_k", "cfg_interval") else float | int, name)
    return Sampling(**settings)


@functools.partial(jax.jit, static_argnums=0)
def parallel_logits(
    model: GeneratorModel, params: Any, ids: Any, condition: Any, valid: Any
) -> Any:
    """Returns the logits of every position, compiled once for each shape."""
    with jax.default_matmul_precision(_precision(model)):
        return model.apply({"params": params}, ids, condition, valid, method="logits")


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def draw_images(
    model: GeneratorModel,
    sampling: Sampling,
    mesh: Mesh | None,
    last: int | None,
    params: Any,
    condition: Any,
    keys: jax.Array,
    null: Any,
    valid: Any,
    kept: Any,
) -> jax.Array:
    """Returns `decoding.images.sample_images`, compiled once for each shape and setting."""
    others = {"null": null, "valid": valid, "kept": kept, "last": last}

    def run():
        with jax.default_matmul_precision(_precision(model)):
            return sample_images(model, params, condition, keys, sampling, **others)

    if mesh is None:
        return run()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.lax.with_sharding_constraint(run(), P(BATCH_AXES))


def _precision(model):
    return "highest" if model.compute.dtype == "float32" else None


def bucket(rows: int, mesh: Mesh | None) -> int:
    """Returns the next power of two, as a multiple of the devices that share a batch."""
    size = 1 << (rows - 1).bit_length()
    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-size // ways) * ways


def _as_key(key):
    """A key of a seed, or the key itself."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    raise UserError(f"expected a seed or a key of jax.random.key, got {key!r}")
