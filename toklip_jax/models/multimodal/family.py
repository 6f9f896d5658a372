"""The multimodal language model as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family, family_of
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.multimodal.model import Multimodal
from toklip_jax.models.qwen.family import FILES

SHARDING = (
    (r".*/token_embed", ("tensor", "fsdp")),  # [v, d]
    (r".*/head_kernel", ("fsdp", "tensor")),  # [d, v]
    (r"image_embed", ("tensor", "fsdp")),  # [z, d]
    (r"image_head", ("fsdp", "tensor")),  # [d, z]
    (r".*/lora_down", ("fsdp", None)),  # [inputs, rank]
    (r".*/lora_up", (None, "tensor")),  # [rank, outputs]
    (r"tokenizer/.*text_tower/proj/kernel", ("fsdp", "tensor")),
)
EMBEDDINGS = ("token_embed", "patch_embed", "pos_embed")


def _inputs(config: MultimodalConfig):
    inputs = [jax.ShapeDtypeStruct((1, 2), jnp.int32)]
    if config.tokenizer is not None:
        inputs += family_of(config.tokenizer).inputs(config.tokenizer)
    if config.image_tower is not None:
        inputs.append(jax.ShapeDtypeStruct((1, *config.image_tower.size, 3), jnp.float32))
    return tuple(inputs)


MULTIMODAL = Family(
    name="multimodal",
    title="the multimodal language model",
    role="multimodal",
    config=MultimodalConfig,
    build=Multimodal,
    inputs=_inputs,
    sharding=SHARDING,
    embeddings=EMBEDDINGS,
    # Ids depend on the VQ tokenizer; the token encoder and text tower may be in low precision.
    full_precision=(r"tokenizer/(?!token_encoder/|text_tower/).*",),
    files=FILES,
)
