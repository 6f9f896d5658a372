"""LlamaGen's VQ tokenizers as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.llamagen.keys import KEYS
from toklip_jax.models.llamagen.model import LlamaGenVQ
from toklip_jax.models.llamagen.sizes import SIZES


def _inputs(config: LlamaGenConfig):
    return (jax.ShapeDtypeStruct((1, *config.smallest_size, 3), jnp.float32),)


LLAMAGEN = Family(
    name="llamagen",
    title="LlamaGen's VQ tokenizer",
    role="vq",
    config=LlamaGenConfig,
    build=LlamaGenVQ,
    inputs=_inputs,
    sizes=SIZES,
    keys=KEYS,
)
