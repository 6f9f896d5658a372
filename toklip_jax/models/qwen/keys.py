"""The names of Qwen's files at Hugging Face, and the sizes that they and `config.json` tell."""

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import HEADS_IN, HEADS_IN_BIAS, HEADS_OUT, LINEAR
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.qwen.settings import SETTINGS
from toklip_jax.models.qwen.sizes import SIZES

LAYER = "model.layers.{i}."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LINEARS = {"gate_proj": "gate", "up_proj": "fc1", "down_proj": "fc2"}
NORMS = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    "self_attn.q_norm": "attn/q_norm",
    "self_attn.k_norm": "attn/k_norm",
}


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> QwenConfig:
    """Returns the config of a model of which there are the tensors alone, without `config.json`.

    Shapes tell all but the numbers of heads of Qwen2.5, the longest sequence, the base of rotary
    positions and whether the head is tied where the file holds one: these are the named size's.
    """
    layer = prefix + LAYER.format(i=0)
    width = shape_of(tensors, f"{prefix}{EMBEDDING}", 2)[1]
    rows, kv_rows = (
        shape_of(tensors, f"{layer}self_attn.{name}_proj.weight", 2)[0] for name in "qk"
    )
    fields = {
        "width": width,
        "depth": count_layers(tensors, prefix + r"model\.layers\.(\d+)\."),
        "mlp_dim": shape_of(tensors, f"{layer}mlp.gate_proj.weight", 2)[0],
        "vocab_size": shape_of(tensors, f"{prefix}{EMBEDDING}", 2)[0],
        "has_qkv_bias": f"{layer}self_attn.q_proj.bias" in tensors,
        "has_qk_norm": f"{layer}self_attn.q_norm.weight" in tensors,
    }
    for config in SIZES.values():
        known = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim)
        is_same = all(getattr(config, name) == value for name, value in fields.items())
        if is_same and known == (rows, kv_rows) and hints.num_heads in (None, config.num_heads):
            return config
    size = _head_dim(tensors, hints, layer, rows)
    if rows % size or kv_rows % size:
        raise UserError(
            f"expected heads of one size among {rows} rows of queries and {kv_rows} of keys, got "
            f"heads of {size}: pass another num_heads"
        )
    return QwenConfig(
        **fields,
        num_heads=rows // size,
        num_kv_heads=kv_rows // size,
        head_dim=size,
        is_tied=f"{prefix}{HEAD}" not in tensors,
    )


def rules(config: QwenConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty.

    The files of some tied models hold the head too (Qwen3-0.6B's and 1.7B's do), as a copy of the
    embedding, which is written back.
    """
    layer, block = f"{source}{LAYER}", f"{target}stack/blocks_{{i}}/"
    heads = [
        rule
        for name in "qkv"
        for rule in (
            Rule(f"{layer}self_attn.{name}_proj.weight", f"{block}attn/{name}/kernel", HEADS_IN),
            Rule(f"{layer}self_attn.{name}_proj.bias", f"{block}attn/{name}/bias", HEADS_IN_BIAS),
        )
    ]
    head = Rule(f"{source}{HEAD}", f"{target}head_kernel", LINEAR)
    if config.is_tied:
        head = Rule(
            f"{source}{HEAD}",
            None,
            reason="a copy of the embedding, which is the head",
            copy_of=f"{source}{EMBEDDING}",
        )
    return [
        Rule(f"{source}{EMBEDDING}", f"{target}token_embed"),
        *heads,
        Rule(f"{layer}self_attn.o_proj.weight", f"{block}attn/proj/kernel", HEADS_OUT),
        *(
            Rule(f"{layer}mlp.{theirs}.weight", f"{block}mlp/{ours}/kernel", LINEAR)
            for theirs, ours in LINEARS.items()
        ),
        *(
            Rule(f"{layer}{theirs}.weight", f"{block}{ours}/scale")
            for theirs, ours in NORMS.items()
        ),
        Rule(f"{source}model.norm.weight", f"{target}norm/scale"),
        head,
    ]


def fits(tensors: Tensors, prefix: str = "") -> bool:
    """Tells Qwen's files from those of Llama and Mistral: these have neither biases nor norms."""
    layer = prefix + LAYER.format(i=0)
    own = ("self_attn.q_proj.bias", "self_attn.q_norm.weight")
    return any(f"{layer}{name}" in tensors for name in own)


def _head_dim(tensors, hints, layer, rows):
    """The size of a head, of a model of no named size."""
    norm = f"{layer}self_attn.q_norm.weight"
    if norm in tensors:
        return shape_of(tensors, norm, 1)[0]
    if hints.num_heads is None:
        raise UserError(
            "expected a config.json beside the weights, a named size, or num_heads: shapes don't "
            "tell the number of attention heads. Pass the directory that holds both, or "
            "--num-heads (or num_heads=...)"
        )
    if hints.num_heads < 1 or rows % hints.num_heads:
        raise UserError(
            f"expected num_heads to divide {rows} rows of queries, got {hints.num_heads}"
        )
    return rows // hints.num_heads


KEYS = ForeignKeys(
    (
        EMBEDDING,
        "model.norm.weight",
        *(f"{LAYER.format(i=0)}{name}.weight" for name in ("self_attn.q_proj", "mlp.gate_proj")),
    ),
    infer,
    rules,
    hints=("num_heads",),
    fits=fits,
    settings=SETTINGS,
)
