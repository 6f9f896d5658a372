"""Chooses among a generator's candidates by meaning: TokLIP's score of ids, without pixels."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.api.conditions import Condition
from toklip_jax.api.drawing import ImageDrawer
from toklip_jax.api.settings import MAX_SAMPLES, Draws, whole_number
from toklip_jax.api.tokenized import TokenizedModel
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
    generator: TokenizedModel,
    drawer: ImageDrawer,
    condition: Condition,
    wanted: Float[Array, "b d"],
    draws: Draws,
    *,
    num: Any,
    drop_at: Any,
) -> Chosen:
    """Returns the best of `num` candidates for each condition.

    Args:
        generator: scores ids by TokLIP, which it holds.
        drawer: draws ids.
        wanted: the normalised feature that candidates are compared with.
        draws: how conditions are drawn; candidates of sample i have the indices i * num, ...
        drop_at: places after which half of them is given up, or 0.

    Raises:
        ValueError: numbers out of range.
    """
    num, drop_at = check_candidates(num, drop_at, generator.config.gpt.num_places)
    rows = len(condition.rows)
    if draws.first_index * num >= MAX_SAMPLES:
        raise UserError(
            f"expected a first_index below {-(-MAX_SAMPLES // num):,} with num={num}, got "
            f"{draws.first_index:,}"
        )
    draws = dataclasses.replace(draws, first_index=draws.first_index * num)
    numbers = jnp.arange(rows * num)  # of all candidates; those that stay keep theirs
    kept, count = None, num

    def each(x):
        return None if x is None else jnp.repeat(jnp.asarray(x), count, axis=0)

    if drop_at:
        ids = drawer.draw(Condition(*map(each, condition)), None, draws, last=drop_at)
        order, _ = _ranked(generator.prefix_features(ids), each(wanted), rows)
        count = num // 2
        kept, numbers = (_take(x, order[:, :count]) for x in (ids, numbers))
    ids = drawer.draw(Condition(*map(each, condition)), kept, draws, numbers=numbers)
    order, scores = _ranked(generator.image_features(ids), each(wanted), rows)
    return Chosen(_take(ids, order[:, :1]), scores)


def check_candidates(num: Any, drop_at: Any, places: int) -> tuple[int, int]:
    """Returns the number of candidates, and the places after which half of them is given up.

    Args:
        places: those of an image.

    Raises:
        ValueError: numbers out of range, or an odd number of candidates to halve.
    """
    num, drop_at = whole_number(num, "num"), whole_number(drop_at, "drop_at")
    if num < 1 or not 0 <= drop_at < places or (drop_at and num % 2):
        raise UserError(
            f"expected num of at least 1, even where half is dropped, and drop_at in [0, "
            f"{places - 1}], got {num} and {drop_at}"
        )
    return num, drop_at


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
