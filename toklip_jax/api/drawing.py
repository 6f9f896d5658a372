"""How a generator's images are drawn: settings, keys, and the compiled programs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.decoding import Sampling
from toklip_jax.decoding.images import ImageDrawing, first_place, next_place, sample_images
from toklip_jax.losses.plain import cross_entropy
from toklip_jax.models.generator.model import GeneratorModel
from toklip_jax.parallel.sharding import BATCH_AXES

LEAST_ROWS_ON_GPU = 16
PLACES_AT_ONCE = 32  # whose logits are held: of 16,384 codes, 2 MB an image


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
    first_index: Any
    negative_class: Any
    sampling: Sampling

    def __post_init__(self):
        object.__setattr__(self, "key", as_key(self.key))
        first = whole_number(self.first_index, "first_index")
        if not 0 <= first < 2**31:
            raise UserError(f"expected a first_index in [0, 2**31), got {first}")
        object.__setattr__(self, "first_index", first)
        if self.negative_class is None:
            return
        object.__setattr__(
            self, "negative_class", whole_number(self.negative_class, "negative_class")
        )
        if not self.sampling.is_guided:
            raise UserError(
                f"expected a cfg_scale above 1 with negative_class, which only guidance uses, got "
                f"{self.sampling.cfg_scale}"
            )


def whole_number(value: Any, name: str) -> int:
    """Returns an integer, NumPy's too; raises ValueError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UserError(f"expected an integer {name}, got {value!r}")
    return int(value)


def read_sampling(settings: dict[str, Any]) -> Sampling:
    """Returns the settings of draws.

    Raises:
        ValueError: an unknown one (names the nearest), or a value of another type or range.
    """
    names = [field.name for field in dataclasses.fields(Sampling)]
    read = {}
    for name, value in settings.items():
        check_name("a setting of sampling", name, names)
        if name in ("top_k", "cfg_interval"):
            read[name] = whole_number(value, name)
        elif isinstance(value, np.floating | np.integer | float | int) and value is not True:
            read[name] = float(value)
        else:
            raise UserError(f"expected a number for {name}, got {value!r}")
    return Sampling(**read)


@functools.partial(jax.jit, static_argnums=0)
def parallel_logits(
    model: GeneratorModel, params: Any, ids: Any, condition: Any, valid: Any
) -> Any:
    """Returns the logits of every position, compiled once for each shape."""
    with jax.default_matmul_precision(precision(model)):
        return model.apply({"params": params}, ids, condition, valid, method="logits")


@functools.partial(jax.jit, static_argnums=0)
def mean_nats(model: GeneratorModel, params: Any, ids: Any, condition: Any, valid: Any) -> Any:
    """Returns the mean of -log p over each image's ids, float32 [b].

    The logits of `PLACES_AT_ONCE` places are held at once.
    """
    codes = model.config.gpt.codes_per_place

    def apply(*inputs, method):
        return model.apply({"params": params}, *inputs, method=method)

    def nats(place):
        """[b] of one place: its outputs [b, d] and its ids [b, q]."""
        out, ids = place
        logits = (apply(out, code, ids, method="logits_of") for code in range(codes))
        losses = [cross_entropy(x, ids[:, code]) for code, x in enumerate(logits)]
        return jnp.mean(jnp.stack(losses), axis=0)

    with jax.default_matmul_precision(precision(model)):
        out = apply(ids, condition, valid, method="hidden")
        by_place = jnp.moveaxis(out, 1, 0), jnp.moveaxis(ids.reshape(*out.shape[:2], codes), 1, 0)
        return jnp.mean(jax.lax.map(nats, by_place, batch_size=PLACES_AT_ONCE), axis=0)


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
        with jax.default_matmul_precision(precision(model)):
            return sample_images(model, params, condition, keys, sampling, **others)

    if mesh is None:
        return run()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.lax.with_sharding_constraint(run(), P(BATCH_AXES))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def first_drawn(
    model: GeneratorModel,
    sampling: Sampling,
    mesh: Mesh | None,
    params: Any,
    condition: Any,
    keys: jax.Array,
    null: Any,
    valid: Any,
    kept: Any,
) -> ImageDrawing:
    """Returns `decoding.images.first_place`, compiled once for each shape and setting."""
    others = {"null": null, "valid": valid, "kept": kept}
    return placed(
        model, mesh, lambda: first_place(model, params, condition, keys, sampling, **others)
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def next_drawn(
    model: GeneratorModel,
    sampling: Sampling,
    mesh: Mesh | None,
    params: Any,
    drawing: ImageDrawing,
    place: Any,
    keys: jax.Array,
) -> ImageDrawing:
    """Returns `decoding.images.next_place`, compiled once for each shape and setting.

    What it takes of the drawing is given up: the caches are written in place.
    """
    return placed(model, mesh, lambda: next_place(model, params, drawing, place, keys, sampling))


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
    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-size // ways) * ways


def as_key(key: Any) -> jax.Array:
    """Returns the key of a seed, or the key itself.

    Raises:
        ValueError: neither.
    """
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return key
        raise UserError(f"expected one key, got {list(key.shape)} of them: pass one")
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        raise UserError(f"expected a seed or a key of jax.random.key, got {key!r}")
    if not 0 <= key < 2**32:
        raise UserError(f"expected a seed in [0, 2**32), got {key}")
    return jax.random.key(int(key))
