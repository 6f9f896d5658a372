"""Qwen's `config.json`, as transformers reads and writes it."""

from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_type
from toklip_jax.models.base import Settings
from toklip_jax.models.qwen.config import INIT_STD, QwenConfig

QWEN2, QWEN3 = "qwen2", "qwen3"  # `model_type`; Qwen2.5 is a qwen2
# The names that fields have there.
NAMES = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "mlp_dim": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}
HEAD_DIM = 128  # where Qwen3's says none, as the class of transformers has it
ROTARY_BASE = 10_000.0  # the same, of both
# What would make another model of it, and the values that make none.
UNSUPPORTED = {
    "hidden_act": (None, "silu"),
    "attention_bias": (None, False),
    "use_sliding_window": (None, False),
    "quantization_config": (None,),
}
FULL = "full_attention"


def read(settings: Mapping[str, Any]) -> QwenConfig:
    """Returns the config that `config.json` describes.

    Raises:
        ValueError: a field is missing or of another type, or describes what this family has not,
            such as a sliding window.
    """
    for name, allowed in UNSUPPORTED.items():
        if settings.get(name) not in allowed:
            raise UserError(
                f"expected {name} {allowed[-1]!r} in config.json, got {settings[name]!r}, which is "
                f"not supported"
            )
    others = sorted({str(kind) for kind in settings.get("layer_types") or ()} - {FULL})
    if others:
        raise UserError(f"expected layers of {FULL} in config.json, got {', '.join(others)}")
    is_qwen3 = settings["model_type"] == QWEN3
    fields = {name: _field(settings, name, theirs) for name, theirs in NAMES.items()}
    head_dim = settings.get("head_dim")
    return QwenConfig(
        **fields,
        head_dim=check_type(head_dim or (HEAD_DIM if is_qwen3 else 0), int, "head_dim"),
        has_qkv_bias=not is_qwen3,
        has_qk_norm=is_qwen3,
        is_tied=check_type(settings.get("tie_word_embeddings", False), bool, "tie_word_embeddings"),
        rotary_base=_rotary_base(settings),
    )


def write(config: QwenConfig) -> dict[str, Any]:
    """Returns a `config.json` that transformers 4 and 5 read alike.

    Raises:
        ValueError: neither Qwen2.5's biases without norms nor Qwen3's norms without biases.
    """
    if config.has_qkv_bias == config.has_qk_norm:
        raise UserError(
            f"expected biases of queries, keys and values, or norms of queries and keys, which "
            f"Qwen's classes in transformers have, got {config}"
        )
    name = "Qwen3ForCausalLM" if config.has_qk_norm else "Qwen2ForCausalLM"
    return {
        "architectures": [name],
        "model_type": QWEN3 if config.has_qk_norm else QWEN2,
        **{theirs: getattr(config, ours) for ours, theirs in NAMES.items()},
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "initializer_range": INIT_STD,
        "rope_theta": config.rotary_base,
        "tie_word_embeddings": config.is_tied,
        "use_sliding_window": False,
    }


def _field(settings, ours, theirs):
    if theirs not in settings:
        raise UserError(f"expected {theirs} in config.json, found none: fetch the file again")
    return check_type(settings[theirs], float if ours == "norm_eps" else int, theirs)


def _rotary_base(settings):
    """The base, which transformers 5 writes among `rope_parameters` and earlier ones did not."""
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    check_type(parameters, dict, "rope_parameters")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise UserError(
            f"expected rotary positions of type 'default' in config.json, got {kind!r}, which is "
            f"not supported: remove its rope_scaling, and keep to the shorter sequences"
        )
    base = parameters.get("rope_theta", settings.get("rope_theta", ROTARY_BASE))
    return float(check_type(base, float, "rope_theta"))


SETTINGS = Settings((QWEN2, QWEN3), read, write)
