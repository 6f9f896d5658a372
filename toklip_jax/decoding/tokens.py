"""Draws tokens with a language model: every row until its own stop id, with one cache."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.decoding.sampling import Sampling, draw, fold_rows


@flax.struct.dataclass
class Drawing:
    """Where the drawing of tokens stands; an ordinary pytree of one shape.

    Attributes:
        ids: what was drawn last, int32 [b].
        place: how many ids were drawn before these, int32 scalar.
        positions: the places of `ids` in their sequences, int32 [b].
        is_done: which rows have met a stop id, these included, bool [b].
        cache: keys and values of what stands before `ids`.
    """

    ids: Any
    place: Any
    positions: Any
    is_done: Any
    cache: Any


def draw_tokens(
    model: nn.Module,
    params: Any,
    x: Float[Array, "b t d"],
    keys: jax.Array,
    sampling: Sampling,
    *,
    positions: Int[Array, "b t"],
    stop_ids: Int[Array, " s"],
    most: Int[Array, ""],
    room: int,
) -> tuple[Int[Array, "b m"], Int[Array, " b"]]:
    """Returns the ids that follow prompts [b, room], and how many of each row count; traceable.

    What counts ends before a row's first stop id; what stands behind it is arbitrary. The loop ends
    where all rows have met one, or have `most` ids.

    Args:
        model: a module with the methods `prefill`, `step`, `head` and `init_cache` of
            `models.qwen.model.Qwen`.
        x: embeddings of the prompts, padded on the left.
        keys: a random key for each row.
        positions: places in the prompts, negative for padding.
        stop_ids: the ids that end a row; there may be none.
        most: ids to draw, from 1 to `room`; it may change without compiling anew.
        room: ids that there is memory for.
    """

    def is_open(carry):
        drawing, _, _ = carry
        return (drawing.place + 1 < most) & ~drawing.is_done.all()

    def one(carry):
        drawing, ids, counts = carry
        return record(next_token(model, params, drawing, keys, sampling, stop_ids), ids, counts)

    def record(drawing, ids, counts):
        ids = jax.lax.dynamic_update_slice(ids, drawing.ids[:, None], (0, drawing.place))
        return drawing, ids, counts + ~drawing.is_done

    size = x.shape[1] + room
    first = first_token(
        model, params, x, keys, sampling, positions=positions, stop_ids=stop_ids, size=size
    )
    b = len(x)
    carry = record(first, jnp.zeros((b, room), jnp.int32), jnp.zeros(b, jnp.int32))
    _, ids, counts = jax.lax.while_loop(is_open, one, carry)
    return ids, counts


def first_token(
    model: nn.Module,
    params: Any,
    x: Float[Array, "b t d"],
    keys: jax.Array,
    sampling: Sampling,
    *,
    positions: Int[Array, "b t"],
    stop_ids: Int[Array, " s"],
    size: int,
) -> Drawing:
    """Returns the drawing after the first id of each row; arguments are those of `draw_tokens`.

    Args:
        size: places of the cache.
    """
    cache = model.init_cache(len(x), size)
    output, cache = model.apply({"params": params}, x, cache, positions, method="prefill")
    ids = draw(_logits(model, params, output), fold_rows(keys, 0), sampling)
    places = positions[:, -1] + 1
    return Drawing(ids, jnp.zeros((), jnp.int32), places, _is_stop(ids, stop_ids), cache)


def next_token(
    model: nn.Module,
    params: Any,
    drawing: Drawing,
    keys: jax.Array,
    sampling: Sampling,
    stop_ids: Int[Array, " s"],
) -> Drawing:
    """Returns the drawing one id further in every row, those that are done included."""
    output, cache = model.apply(
        {"params": params}, drawing.ids, drawing.cache, drawing.positions, method="step"
    )
    place = drawing.place + 1
    ids = draw(_logits(model, params, output), fold_rows(keys, place), sampling)
    is_done = drawing.is_done | _is_stop(ids, stop_ids)
    return Drawing(ids, place, drawing.positions + 1, is_done, cache)


def _logits(model, params, output):
    return model.apply({"params": params}, output, method="head")


def _is_stop(ids, stop_ids):
    return (ids[:, None] == stop_ids).any(axis=1)
