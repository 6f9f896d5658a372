"""Draws images' ids with a generator: the condition, the cached loop, and guidance together."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from toklip_jax.decoding.loop import decode
from toklip_jax.decoding.sampling import Sampling, draw, fold_rows
from toklip_jax.models.generator.model import GeneratorModel


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
    config = model.config.gpt
    rows, codes = len(condition), config.codes_per_place
    first = 0 if kept is None else kept.shape[1]
    if sampling.is_guided:
        condition = jnp.concatenate([condition, null])
        valid = None if valid is None else jnp.tile(valid, (2, 1))

    def apply(*inputs, method):
        return model.apply({"params": params}, *inputs, method=method)

    def step(ids, caches):
        return apply(ids, caches, sampling.conditions, method="step")

    def draw_place(output, place):
        drawn = []
        for code in range(codes):
            before = None
            if drawn:
                before = jnp.tile(jnp.stack(drawn, axis=-1), (sampling.conditions, 1))
            logits = sampling.guided(apply(output, code, before, method="logits_of"), place)
            drawn.append(draw(logits, fold_rows(keys, place * codes + code), sampling))
        return drawn[0] if codes == 1 else jnp.stack(drawn, axis=-1)

    caches = model.init_caches(rows, sampling.conditions)
    output, caches = apply(condition, caches, kept, valid, method="prefill")
    ids = decode(draw_place, step, output, caches, first, last or config.num_places)
    return ids if kept is None else jnp.concatenate([kept.astype(jnp.int32), ids], axis=1)
