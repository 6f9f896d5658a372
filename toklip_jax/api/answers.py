"""The compiled programs that draw a language model's answers."""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from toklip_jax.api.program import placed
from toklip_jax.api.prompts import padded_length
from toklip_jax.core.errors import UserError
from toklip_jax.decoding import Sampling
from toklip_jax.decoding.multimodal import draw_image_ids
from toklip_jax.decoding.tokens import Drawing, draw_tokens, first_token, next_token
from toklip_jax.parallel.sharding import to_host


def expect_two_ways(mesh: Mesh | None) -> None:
    """Raises ValueError for a mesh over which XLA splits a step of decoding wrongly.

    Where all three axes split, rows of neighbouring devices come out exchanged (seen with jax
    0.10.2 on CPUs); `data` and `fsdp` split the same rows, so that one of both is enough.
    """
    if mesh is not None and all(size > 1 for size in mesh.shape.values()):
        raise UserError(
            f"expected a mesh with data or fsdp of 1 to answer on, as XLA splits the steps wrongly "
            f"over all three axes, got {dict(mesh.shape)}: put both into one of them"
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def answers(
    model: nn.Module,
    sampling: Sampling,
    mesh: Mesh | None,
    room: int,
    params: Any,
    ids: Any,
    positions: Any,
    keys: jax.Array,
    stop_ids: Any,
    most: Any,
) -> tuple[jax.Array, jax.Array]:
    """Returns `decoding.tokens.draw_tokens`, compiled once for each shape and setting.

    Args:
        ids: what the model's `embed` takes; a tuple where that is more than ids.
    """

    def run():
        x = _embedded(model, params, ids)
        options = {"positions": positions, "stop_ids": stop_ids, "most": most, "room": room}
        return draw_tokens(model, params, x, keys, sampling, **options)

    return placed(model, mesh, run)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def first_answer(
    model: nn.Module,
    sampling: Sampling,
    mesh: Mesh | None,
    size: int,
    params: Any,
    ids: Any,
    positions: Any,
    keys: jax.Array,
    stop_ids: Any,
) -> Drawing:
    """Returns `decoding.tokens.first_token`, compiled once for each shape and setting."""

    def run():
        x = _embedded(model, params, ids)
        options = {"positions": positions, "stop_ids": stop_ids, "size": size}
        return first_token(model, params, x, keys, sampling, **options)

    return placed(model, mesh, run)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def next_answer(
    model: nn.Module,
    sampling: Sampling,
    mesh: Mesh | None,
    params: Any,
    drawing: Drawing,
    keys: jax.Array,
    stop_ids: Any,
) -> Drawing:
    """Returns `decoding.tokens.next_token`, compiled once for each shape and setting.

    What it takes of the drawing is given up: the cache is written in place.
    """
    return placed(model, mesh, lambda: next_token(model, params, drawing, keys, sampling, stop_ids))


def stream_answer(
    model: nn.Module,
    sampling: Sampling,
    mesh: Mesh | None,
    params: Any,
    ids: Any,
    positions: Any,
    keys: jax.Array,
    stop_ids: Any,
    most: int,
) -> Iterator[int]:
    """Yields the ids of one answer, each as soon as it is drawn, up to its first stop id."""
    static, size = (model, sampling, mesh), positions.shape[1] + padded_length(most)
    drawing = first_answer(*static, size, params, ids, positions, keys, stop_ids)
    for place in range(most):
        if place:
            drawing = next_answer(*static, params, drawing, keys, stop_ids)
        if bool(to_host(drawing.is_done)[0]):
            return
        yield int(to_host(drawing.ids)[0])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def drawn_images(
    model: nn.Module,
    sampling: Sampling,
    mesh: Mesh | None,
    params: Any,
    ids: Any,
    positions: Any,
    keys: jax.Array,
) -> jax.Array:
    """Returns `decoding.multimodal.draw_image_ids`, compiled once for each shape and setting."""

    def run():
        x = _embedded(model, params, ids)
        return draw_image_ids(model, params, x, positions, keys, sampling)

    return placed(model, mesh, run)


def _embedded(model, params, ids):
    inputs = ids if isinstance(ids, tuple) else (ids,)
    return model.apply({"params": params}, *inputs, method="embed")
