"""Qwen's language models as a family."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.qwen.keys import KEYS
from toklip_jax.models.qwen.model import Qwen
from toklip_jax.models.qwen.releases import RELEASES
from toklip_jax.models.qwen.sizes import SIZES

SHARDING = (
    (r"token_embed", ("tensor", "fsdp")),  # [v, d]
    (r"head_kernel", ("fsdp", "tensor")),  # [d, v]
)
# What generation and the text tokenizer read, in transformers' names.
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def _inputs(config: QwenConfig):
    return (jax.ShapeDtypeStruct((1, 2), jnp.int32),)


QWEN = Family(
    name="qwen",
    title="Qwen's language models",
    role="language_model",
    config=QwenConfig,
    build=Qwen,
    inputs=_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    sharding=SHARDING,
    embeddings=("token_embed",),
    files=FILES,
    download="Qwen2.5 and Qwen3: Qwen/Qwen2.5-0.5B and others on the Hugging Face hub",
)
