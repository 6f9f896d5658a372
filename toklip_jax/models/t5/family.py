"""T5's text encoder as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family
from toklip_jax.models.t5.config import T5Config
from toklip_jax.models.t5.keys import KEYS
from toklip_jax.models.t5.model import T5Encoder
from toklip_jax.models.t5.releases import RELEASES
from toklip_jax.models.t5.sizes import SIZES


def _inputs(config: T5Config):
    return (jax.ShapeDtypeStruct((1, 1), jnp.int32),)  # it takes texts of any length


T5 = Family(
    name="t5",
    title="T5's text encoder in Hugging Face's names",
    role="text_encoder",
    config=T5Config,
    build=T5Encoder,
    inputs=_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    sharding=((r"(.*/)?token_embed", ("tensor", "fsdp")),),  # [v, d]
    embeddings=("token_embed",),
    download="T5's encoders: google/flan-t5-xl on the Hugging Face hub, whole or its encoder alone",
)
