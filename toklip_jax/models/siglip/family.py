"""SigLIP 2 as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.models.siglip.keys import KEYS
from toklip_jax.models.siglip.model import Teacher
from toklip_jax.models.siglip.releases import RELEASES
from toklip_jax.models.siglip.sizes import SIZES

SHARDING = (
    (r".*/token_embed", ("tensor", "fsdp")),  # [v, d]
    (r".*text_tower/proj/kernel", ("fsdp", "tensor")),
)
EMBEDDINGS = ("patch_embed", "pos_embed", "token_embed")


def _inputs(config: TeacherConfig):
    images = jax.ShapeDtypeStruct((1, *config.vision.size, 3), jnp.float32)
    if config.text is None:
        return (images,)
    return images, jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)


SIGLIP = Family(
    name="teacher",
    title="SigLIP 2 in open_clip's and timm's names",
    role="teacher",
    config=TeacherConfig,
    build=Teacher,
    inputs=_inputs,
    sizes=SIZES,
    parts={"vision": VisionConfig, "text": TextConfig},
    keys=KEYS,
    releases=RELEASES,
    sharding=SHARDING,
    embeddings=EMBEDDINGS,
)
