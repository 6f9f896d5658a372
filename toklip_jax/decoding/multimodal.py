"""Draws ids of images with a language model that has them in its vocabulary."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from toklip_jax.decoding.loop import decode
from toklip_jax.decoding.sampling import Sampling, draw, fold_rows


def draw_image_ids(
    model: nn.Module,
    params: Any,
    x: Float[Array, "c t d"],
    positions: Int[Array, "c t"],
    keys: jax.Array,
    sampling: Sampling,
) -> Int[Array, "b n"]:
    """Returns the ids of an image after each prompt, int32, row by row of the grid; traceable.

    Only ids of images are drawn. The token encoder, whose input is ids alone, runs once for both
    halves of a guided batch.

    Args:
        model: a `models.multimodal.model.Multimodal` that reads "ids".
        x: embeddings of the prompts, padded on the left; under guidance those of the prompts
            without a text in the second half.
        positions: places in the prompts, negative for padding.
        keys: a random key for each image.
    """
    copies, num_places = sampling.conditions, model.config.num_tokens

    def apply(*inputs, method):
        return model.apply({"params": params}, *inputs, method=method)

    def draw_place(output, place):
        logits = sampling.guided(apply(output, method="image_head"), place)
        return draw(logits, fold_rows(keys, place), sampling)

    def step(ids, state):
        caches, places = state
        output, caches = apply(ids, caches, places, copies, method="image_step")
        return output, (caches, places + 1)

    caches = model.init_caches(len(x) // copies, x.shape[1] + num_places, copies)
    output, cache = apply(x, caches.language_model, positions, method="prefill")
    state = caches.replace(language_model=cache), positions[:, -1] + 1
    return decode(draw_place, step, output, state, 0, num_places)
