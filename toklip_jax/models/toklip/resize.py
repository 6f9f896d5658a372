"""Changes the size of the images that TokLIP's weights are for."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.ops.resample import resample_positions


def resize_model(
    config: TokLIPConfig, params: dict[str, Any], image_size: int | tuple[int, ...]
) -> tuple[TokLIPConfig, dict[str, Any]]:
    """Returns TokLIP's config and parameters with the position table resampled.

    Raises:
        ValueError: the VQ tokenizer's down-sampling does not divide `image_size`, or the pooling is
            tied to the number of tokens.
    """
    if config.vision.pool != "map":
        raise UserError(
            f"expected images of {config.vision.image_size} px, got {image_size}: the pooling "
            f"{config.vision.pool!r} is tied to the number of tokens"
        )
    vision = dataclasses.replace(config.vision, image_size=image_size)
    encoder = params["token_encoder"]
    table = jnp.asarray(encoder["pos_embed"], jnp.float32)
    encoder = encoder | {"pos_embed": resample_positions(table, vision.grid, config.vision.grid)}
    return dataclasses.replace(config, vision=vision), params | {"token_encoder": encoder}
