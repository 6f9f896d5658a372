"""The names of T5's text encoder in Hugging Face's files, of the encoder alone or of all of T5."""

from toklip_jax.files.layouts import HEADS_IN, HEADS_OUT, LINEAR
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.t5.config import T5Config

FIRST = "encoder.block.0.layer."
BIAS = f"{FIRST}0.SelfAttention.relative_attention_bias.weight"
DECODER = "T5's decoder, of which captions make no use"


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> T5Config:
    """Returns the config of the encoder whose tensors' names begin with `prefix`.

    The activation follows from the gate: T5 has neither, T5 1.1 and Flan-T5 have both.
    """
    vocab_size, width = shape_of(tensors, f"{prefix}shared.weight", 2)
    num_buckets, num_heads = shape_of(tensors, prefix + BIAS, 2)
    inner = shape_of(tensors, f"{prefix}{FIRST}0.SelfAttention.q.weight", 2)[0]
    is_gated = f"{prefix}{FIRST}1.DenseReluDense.wi_0.weight" in tensors
    hidden = "wi_1" if is_gated else "wi"
    return T5Config(
        vocab_size=vocab_size,
        width=width,
        depth=count_layers(tensors, prefix + r"encoder\.block\.(\d+)\."),
        num_heads=num_heads,
        head_dim=inner // num_heads,
        mlp_dim=shape_of(tensors, f"{prefix}{FIRST}1.DenseReluDense.{hidden}.weight", 2)[0],
        is_gated=is_gated,
        activation="gelu_tanh" if is_gated else "relu",
        num_buckets=num_buckets,
    )


def rules(config: T5Config, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    layer, block = f"{source}encoder.block.{{i}}.layer", f"{target}stack/blocks_{{i}}"
    attention, mlp = f"{layer}.0.SelfAttention", f"{layer}.1.DenseReluDense"
    found = [
        Rule(f"{source}shared.weight", f"{target}token_embed"),
        Rule(source + BIAS, f"{target}relative_bias"),
        *(
            Rule(f"{attention}.{name}.weight", f"{block}/attn/{name}/kernel", HEADS_IN)
            for name in ("q", "k", "v")
        ),
        Rule(f"{attention}.o.weight", f"{block}/attn/proj/kernel", HEADS_OUT),
        Rule(f"{layer}.0.layer_norm.weight", f"{block}/norm1/scale"),
        Rule(f"{layer}.1.layer_norm.weight", f"{block}/norm2/scale"),
        Rule(f"{mlp}.wo.weight", f"{block}/mlp/fc2/kernel", LINEAR),
        Rule(f"{source}encoder.final_layer_norm.weight", f"{target}norm/scale"),
    ]
    hidden = {"wi_0": "gate", "wi_1": "fc1"} if config.is_gated else {"wi": "fc1"}
    return found + [
        Rule(f"{mlp}.{theirs}.weight", f"{block}/mlp/{ours}/kernel", LINEAR)
        for theirs, ours in hidden.items()
    ]


KEYS = ForeignKeys(
    ("shared.weight", BIAS),
    infer,
    rules,
    unused={
        "decoder.": DECODER,
        "lm_head.": DECODER,
        "encoder.embed_tokens.": "the token table again, which is `shared`",
    },
)
