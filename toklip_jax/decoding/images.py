"""Draws images' ids with a generator: the condition, the cached loop, and guidance together."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from toklip_jax.decoding.loop import decode
from toklip_jax.decoding.sampling import Sampling, draw, fold_rows
from toklip_jax.models.generator.model import GeneratorModel
from toklip_jax.nn.layers import TRANSPOSED
from toklip_jax.ops.products import has_few

LEAST_PLACES = 64  # transposing kernels takes as long as it saves in about 20 steps
MOST_BYTES = 2**31  # of transposed kernels, which are held beside the others
CACHE_SHARE = 4  # the loop is cut into parts from caches of a quarter of the parameters' size on


@flax.struct.dataclass
class ImageDrawing:
    """An image in the making: the ids of the place drawn last, and the caches before them."""

    ids: Int[Array, "b *q"]
    caches: Any


def sample_images(
    model: GeneratorModel,
    params: Any,
    condition: Any,
    keys: jax.Array,
    sampling: Sampling,
    *,
    null: Any = None,
    valid: Bool[Array, "b p"] | None = None,
    kept: Int[Array, "b m *q"] | None = None,
    last: int | None = None,
) -> Int[Array, "b n *q"]:
    """Returns the ids of an image, or its first, for each row of the condition; int32, traceable.

    The GPT and the token encoder each have one cache. Under guidance the GPT's batch is doubled,
    the null condition in its second half; the token encoder, whose input is ids alone, runs once.

    Args:
        condition: class ids [b], or captions' features [b, p, c].
        keys: a random key for each row.
        null: the null condition, of the same form; needed under guidance.
        valid: which of the condition's rows count, for both halves.
        kept: the first m ids of each image, which stay as they are.
        last: places to draw up to; all unless given.
    """
    drawer = _Drawer(model, params, keys, sampling)
    first = 0 if kept is None else kept.shape[1]
    output, caches = drawer.prefill(condition, null, valid, kept)
    last = last or model.config.gpt.num_places
    drawer.transpose_kernels(output, caches, last - first)
    is_large = CACHE_SHARE * num_bytes(caches) >= num_bytes(params["gpt"])
    fit = model.fit_caches if is_large and jax.default_backend() == "cpu" else None
    ids = decode(drawer.draw, drawer.step, output, caches, first, last, fit)
    return ids if kept is None else jnp.concatenate([kept.astype(jnp.int32), ids], axis=1)


def first_place(
    model: GeneratorModel,
    params: Any,
    condition: Any,
    keys: jax.Array,
    sampling: Sampling,
    *,
    null: Any = None,
    valid: Bool[Array, "b p"] | None = None,
    kept: Int[Array, "b m *q"] | None = None,
) -> ImageDrawing:
    """Returns the first place that `sample_images` draws; the arguments are its; traceable."""
    drawer = _Drawer(model, params, keys, sampling)
    output, caches = drawer.prefill(condition, null, valid, kept)
    first = 0 if kept is None else kept.shape[1]
    return ImageDrawing(drawer.draw(output, first), caches)


def next_place(
    model: GeneratorModel,
    params: Any,
    drawing: ImageDrawing,
    place: Int[Array, ""],
    keys: jax.Array,
    sampling: Sampling,
) -> ImageDrawing:
    """Returns the place after those that are drawn, which is number `place`; traceable."""
    drawer = _Drawer(model, params, keys, sampling)
    output, caches = drawer.step(drawing.ids, drawing.caches)
    return ImageDrawing(drawer.draw(output, place), caches)


class _Drawer:
    """A generator's steps, with all that stays the same from one place to the next."""

    def __init__(self, model, params, keys, sampling):
        self.model, self.params, self.keys, self.sampling = model, params, keys, sampling
        self.apply = functools.partial(model.apply, {"params": params})

    def prefill(self, condition, null, valid, kept):
        """The output that gives the first place to draw, and the caches."""
        rows = len(condition)
        if self.sampling.is_guided:
            condition = jnp.concatenate([condition, null])
            valid = None if valid is None else jnp.tile(valid, (2, 1))
        caches = self.model.init_caches(rows, self.sampling.conditions)
        return self.apply(condition, caches, kept, valid, method="prefill")

    def transpose_kernels(self, output, caches, places):
        """Transposes the kernels once, for all later steps, where that pays.

        That is on CPUs, in float32, and for few rows that are not sharded.
        """
        compute, gpt = self.model.compute, self.model.config.gpt
        is_plain = compute.dtype == "float32" and not compute.is_scanned
        is_whole = jax.sharding.get_abstract_mesh().empty and has_few((len(output),))
        if jax.default_backend() != "cpu" or not is_plain or not is_whole or places < LEAST_PLACES:
            return
        ids = jnp.zeros((len(self.keys), *gpt.ids_shape[1:]), jnp.int32)
        before = jnp.tile(ids, (self.sampling.conditions, 1)) if gpt.codes_per_place > 1 else None

        # What else a step computes here is not used, so that the compiler leaves it out.
        calls = [("step", (ids, caches, self.sampling.conditions))]
        calls += [("logits_of", (output, code, before)) for code in range(gpt.codes_per_place)]
        found = {}
        for method, inputs in calls:
            variables = {"params": self.params, **found}
            _, found = self.model.apply(variables, *inputs, method=method, mutable=[TRANSPOSED])
        if 0 < num_bytes(found) <= MOST_BYTES:  # int8 kernels stay as they are
            found = jax.lax.optimization_barrier(found)
            self.apply = functools.partial(self.model.apply, {"params": self.params, **found})

    def step(self, ids, caches):
        return self.apply(ids, caches, self.sampling.conditions, method="step")

    def draw(self, output, place):
        """The ids of a place, [b] or [b, q]; each may depend on those before it."""
        codes = self.model.config.gpt.codes_per_place
        drawn = []
        for code in range(codes):
            before = None
            if drawn:
                before = jnp.tile(jnp.stack(drawn, axis=-1), (self.sampling.conditions, 1))
            logits = self.apply(output, code, before, method="logits_of")
            logits = self.sampling.guided(logits, place)
            keys = fold_rows(self.keys, place * codes + code)
            drawn.append(draw(logits, keys, self.sampling))
        return drawn[0] if codes == 1 else jnp.stack(drawn, axis=-1)


def num_bytes(tree: Any) -> int:
    """Returns the size of a tree's arrays, which may be traced or shapes only."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
