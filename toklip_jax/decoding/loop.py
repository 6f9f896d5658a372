"""The loop that draws one place after another, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Draw = Callable[[Any, Any], Any]
Step = Callable[[Any, Any], tuple[Any, Any]]


def decode(draw: Draw, step: Step, output: Any, caches: Any, first: int, last: int) -> Any:
    """Returns what is drawn at places `first` to `last` - 1, along the second axis; traceable.

    Args:
        draw: `draw(output, place)` returns the ids of a place, [b] or [b, q].
        step: `step(ids, caches)` returns the model's output after these ids, and its caches.
        output: the model's output that gives the ids of place `first`.
        caches: the model's, any pytree.
        first: places that are given; at least one is left to draw.
        last: the number of all places.
    """
    ids = draw(output, jnp.int32(first))

    def one(carry: tuple[Any, Any], place: Int[Array, ""]):
        ids, caches = carry
        output, caches = step(ids, caches)
        ids = draw(output, place)
        return (ids, caches), ids

    places = jnp.arange(first + 1, last, dtype=jnp.int32)
    _, others = jax.lax.scan(one, (ids, caches), places)
    return jnp.concatenate([ids[:, None], jnp.moveaxis(others, 0, 1)], axis=1)
