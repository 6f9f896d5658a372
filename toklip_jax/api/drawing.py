"""How a generator's images are drawn and scored: in chunks of rows, by compiled programs."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from toklip_jax.api.conditions import Condition, null_condition
from toklip_jax.api.program import (
    bucket,
    is_traced,
    is_whole,
    map_rows,
    placed,
    platform_of,
    precision,
    put_rows,
)
from toklip_jax.api.settings import Draws
from toklip_jax.decoding import Sampling, row_keys
from toklip_jax.decoding.images import ImageDrawing, first_place, next_place, sample_images
from toklip_jax.losses.plain import cross_entropy
from toklip_jax.models.generator.model import GeneratorModel
from toklip_jax.parallel.sharding import BATCH

PLACES_AT_ONCE = 32  # whose logits are held: of 16,384 codes, 2 MB an image


@dataclasses.dataclass(frozen=True)
class ImageDrawer:
    """Draws and scores the ids of images with a generator and its parameters.

    Attributes:
        model: the Linen module.
        params: its parameters.
        mesh: the mesh that they are sharded over, or None.
        batch_size: how many rows are computed at a time; None takes all, padded to a power of two.
    """

    model: GeneratorModel
    params: Any
    mesh: Mesh | None
    batch_size: int | None

    def draw(
        self,
        condition: Condition,
        kept: Any,
        draws: Draws,
        *,
        numbers: Any = None,
        last: int | None = None,
    ) -> jax.Array:
        """Returns the ids of an image for each condition, int32 [b, n] or [b, n, q].

        Args:
            kept: the first ids of each image, which stay as they are; or None.
            numbers: those of the samples, counted from `draws.first_index`; by default 0, 1, ...
            last: places to draw up to; all unless given.
        """
        static = self.model, draws.sampling, self.mesh, last
        draw = functools.partial(draw_images, *static, self.params)
        return self._map_rows(draw, *self._drawn_from(condition, kept, draws, numbers))

    def places(self, condition: Condition, kept: Any, draws: Draws) -> Iterator[jax.Array]:
        """Yields the ids of each place, of all images at once; the arguments are those of `draw`.

        Rows are padded, and not taken in chunks. Ids are copied: the next step gives up its own.
        """
        count, static = len(condition.rows), (self.model, draws.sampling, self.mesh)
        rows = np.minimum(np.arange(bucket(count, self.mesh, platform_of(self.params))), count - 1)
        whole = self._drawn_from(condition, kept, draws)
        inputs = [None if x is None else put_rows(x[rows], self.mesh) for x in whole]
        first = 0 if kept is None else kept.shape[1]
        drawing, keys = first_drawn(*static, self.params, *inputs), inputs[1]
        yield jnp.array(drawing.ids[:count])
        for place in range(first + 1, self.model.config.gpt.num_places):
            drawing = next_drawn(*static, self.params, drawing, np.int32(place), keys)
            yield jnp.array(drawing.ids[:count])

    def score(self, function: Callable[..., Any], ids: Any, condition: Condition) -> Any:
        """Returns a function of model, parameters, ids and conditions: in chunks, or traced.

        Args:
            function: `parallel_logits` or `mean_nats`.
        """
        of_rows = functools.partial(function, self.model, self.params)
        if is_whole(ids) or is_traced(self.params):
            return of_rows(ids, *condition)
        return self._map_rows(of_rows, ids, *condition)

    def _drawn_from(self, condition, kept, draws, numbers=None):
        """What images are drawn from: condition, keys, null condition, what counts, kept ids."""
        gpt, null = self.model.config.gpt, None
        if draws.sampling.is_guided:
            uncond = self.params["gpt"]["condition"].get("uncond")
            null = null_condition(gpt, condition.rows, uncond, draws.negative_class)
        numbers = np.arange(len(condition.rows)) if numbers is None else numbers
        keys = row_keys(draws.key, draws.first_index + numbers)
        return condition.rows, keys, null, condition.valid, kept

    def _map_rows(self, function, *arrays):
        size = self.batch_size or bucket(len(arrays[0]), self.mesh, platform_of(self.params))
        return map_rows(function, arrays, size, functools.partial(put_rows, mesh=self.mesh))


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
        ids = sample_images(model, params, condition, keys, sampling, **others)
        return ids if mesh is None else jax.lax.with_sharding_constraint(ids, BATCH)

    return placed(model, mesh, run)


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
