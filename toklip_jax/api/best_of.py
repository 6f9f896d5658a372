"""Chooses among a generator's candidates by meaning: TokLIP's score of ids, without pixels."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.ops.normalize import l2_normalize


class Chosen(NamedTuple):
    """The best candidate of each condition.

    Attributes:
        ids: its ids, int32.
        scores: inner products of the candidates' features and the text's, those that were drawn to
            the end, best first.
    """

    ids: Int[Array, "b n *q"]
    scores: Float[Array, "b k"]


def choose(
    generator: Any,
    condition: Any,
    valid: Any,
    wanted: Float[Array, "b d"],
    num: int,
    drop_at: int,
    first_index: int,
    options: tuple[Any, Any, Any],
) -> Chosen:
    """Returns the best of `num` candidates for each condition.

    Args:
        generator: an `api.Generator`.
        wanted: the normalised feature that candidates are compared with.
        drop_at: places after which half of them is given up, or 0.
        options: key, negative class and `Sampling`.

    Raises:
        ValueError: numbers out of range.
    """
    places, rows = generator.config.gpt.num_places, len(condition)
    if num < 1 or not 0 <= drop_at < places or (drop_at and num % 2):
        raise UserError(
            f"expected num of at least 1, even where half is dropped, and drop_at in [0, "
            f"{places - 1}], got {num} and {drop_at}"
        )

    def each(x, times):
        return None if x is None else jnp.repeat(jnp.asarray(x), times, axis=0)

    key, negative, sampling = options
    first, kept, count = first_index * num, None, num

    def draw(kept, last):
        repeated = each(condition, count), each(valid, count)
        return generator._sample(*repeated, kept, key, first, negative, sampling, last)

    if drop_at:
        ids = draw(None, drop_at)
        order, _ = _ranked(generator.prefix_features(ids), each(wanted, num), rows)
        count = num // 2
        kept = _take(ids, order[:, :count])
    ids = draw(kept, None)
    order, scores = _ranked(generator.image_features(ids), each(wanted, count), rows)
    return Chosen(_take(ids, order[:, :1]), scores)


def _ranked(features, wanted, rows):
    """The order of each condition's candidates, best first, and their scores in it."""
    scores = jnp.sum(l2_normalize(features) * wanted, axis=-1).reshape(rows, -1)
    order = jnp.argsort(-scores, axis=1)
    return order, jnp.take_along_axis(scores, order, axis=1)


def _take(ids, order):
    """The candidates of an order, [b * k, ...] of [b * num, ...]."""
    rows, _ = order.shape
    grouped = ids.reshape(rows, -1, *ids.shape[1:])
    index = order.reshape(*order.shape, *(1,) * (ids.ndim - 1))
    return jnp.take_along_axis(grouped, index, axis=1).reshape(-1, *ids.shape[1:])
