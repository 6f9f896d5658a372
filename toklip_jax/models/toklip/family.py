"""TokLIP as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family
from toklip_jax.models.siglip.family import EMBEDDINGS, SHARDING
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.keys import KEYS
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.models.toklip.releases import RELEASES
from toklip_jax.models.toklip.sizes import SIZES


def _inputs(config: TokLIPConfig):
    return (
        jax.ShapeDtypeStruct((1, *config.vision.size, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32),
    )


TOKLIP = Family(
    name="toklip",
    title="TokLIP",
    role="toklip",
    config=TokLIPConfig,
    build=TokLIP,
    inputs=_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    sharding=SHARDING,
    embeddings=("mapping", *EMBEDDINGS),
    full_precision=("vq/.*",),  # ids depend on it
)
