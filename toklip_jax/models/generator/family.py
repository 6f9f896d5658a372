"""The image generator as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family, family_of
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.generator.keys import KEYS
from toklip_jax.models.generator.model import GeneratorModel
from toklip_jax.models.generator.releases import RELEASES
from toklip_jax.models.generator.sizes import SIZES

SHARDING = (
    (r"gpt/embed/codes_\d+", ("tensor", "fsdp")),  # [v, d]
    (r"gpt/condition/embed", (None, "fsdp")),
    (r"gpt/head/codes_\d+", ("fsdp", "tensor")),  # [d, v]
    (r"gpt/head/before_\d+", ("tensor", "fsdp")),
    (r"gpt/(code_embed|fuse/linear)/kernel", (None, "fsdp")),
    (r"tokenizer/.*/token_embed", ("tensor", "fsdp")),
    (r"tokenizer/.*text_tower/proj/kernel", ("fsdp", "tensor")),
)
# The GPT's products; its embeddings and norms, and the tokenizer, are as they were trained.
QUANTISED = (
    (r"gpt/.*/attn/qkv/kernel", (-4,)),  # [d, 3, k, e]
    (r"gpt/.*/attn/proj/kernel", (-3, -2)),  # [k, e, d]
    (r"gpt/.*/(fc1|fc2|gate|linear)/kernel", (-2,)),
    (r"gpt/code_embed/kernel", (-2,)),
    (r"gpt/head/codes_\d+", (-2,)),  # [d, v]
)
EMBEDDINGS = ("embed", "condition", "code_embed", "fuse")


def _inputs(config: GeneratorConfig):
    gpt = config.gpt
    condition = jax.ShapeDtypeStruct((1,), jnp.int32)
    if gpt.caption_dim:
        shape = (1, gpt.caption_length, gpt.caption_dim)
        condition = jax.ShapeDtypeStruct(shape, jnp.float32)
    inputs = jax.ShapeDtypeStruct((1, *gpt.ids_shape), jnp.int32), condition
    if config.tokenizer is None:
        return inputs
    return *inputs, *family_of(config.tokenizer).inputs(config.tokenizer)


GENERATOR = Family(
    name="generator",
    title="LlamaGen's GPT",
    role="generator",
    config=GeneratorConfig,
    build=GeneratorModel,
    inputs=_inputs,
    sizes=SIZES,
    parts={"gpt": GPTConfig},
    keys=KEYS,
    releases=RELEASES,
    sharding=SHARDING,
    embeddings=EMBEDDINGS,
    quantised=QUANTISED,
    # Ids depend on the VQ tokenizer; the token encoder and text tower may be in low precision.
    full_precision=(r"tokenizer/(?!token_encoder/|text_tower/).*",),
    download="LlamaGen's GPTs: FoundationVision/LlamaGen on the Hugging Face hub, c2i_B_256.pt",
)
