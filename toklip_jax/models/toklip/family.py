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

# The token encoder's products. The VQ tokenizer stays as it was trained, as ids depend on it; so do
# the text tower, tables and norms.
QUANTISED = (
    (r"token_encoder/.*/attn/qkv/kernel", (-4,)),  # [d, 3, k, e]
    (r"token_encoder/(.*/attn|pool)/proj/kernel", (-3, -2)),  # [k, e, d]
    (r"token_encoder/pool/kv/kernel", (-4,)),  # [d, 2, k, e]
    (r"token_encoder/pool/q/kernel", (-3,)),  # [d, k, e]
    (r"token_encoder/(.*/)?(fc1|fc2|linear)/kernel", (-2,)),
)


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
    quantised=QUANTISED,
)
