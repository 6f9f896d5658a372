"""The loop that draws one place after another, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Draw = Callable[[Any, Any], Any]
Step = Callable[[Any, Any], tuple[Any, Any]]
PARTS, LEAST = 3, 64  # at most so many parts of a loop, each of at least so many places


def decode(
    draw: Draw,
    step: Step,
    output: Any,
    caches: Any,
    first: int,
    last: int,
    fit: Callable[[Any, int], Any] | None = None,
) -> Any:
    """Returns what is drawn at places `first` to `last` - 1, along the second axis; traceable.

    Args:
        draw: `draw(output, place)` returns the ids of a place, [b] or [b, q].
        step: `step(ids, caches)` returns the model's output after these ids, and its caches.
        output: the model's output that gives the ids of place `first`.
        caches: the model's, any pytree.
        first: places that are given; at least one is left to draw.
        last: the number of all places.
        fit: `fit(caches, end)` returns the caches with room for the places before `end` alone.
            A long loop is then cut into parts, so that early steps don't read the room of late
            ones.
    """
    ids = draw(output, jnp.int32(first))

    def one(carry: tuple[Any, Any], place: Int[Array, ""]):
        ids, caches = carry
        output, caches = step(ids, caches)
        ids = draw(output, place)
        return (ids, caches), ids

    drawn, carry = [ids[None]], (ids, caches)
    parts = 1 if fit is None else min(max((last - first) // LEAST, 1), PARTS)
    ends = [first + 1 + (last - first - 1) * (i + 1) // parts for i in range(parts)]
    for start, end in zip([first + 1, *ends], ends, strict=False):
        if fit is not None:
            carry = carry[0], fit(carry[1], end)
        carry, others = jax.lax.scan(one, carry, jnp.arange(start, end, dtype=jnp.int32))
        drawn.append(others)
    return jnp.moveaxis(jnp.concatenate(drawn), 0, 1)
