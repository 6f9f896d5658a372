"""The names of LlamaGen's GPT checkpoints, and of what this package's generators have beside them.

LlamaGen's files hold a GPT alone. What it has not (TokLIP's tokens at the input, several ids a
place, the tokenizer) has names of our own, so that any generator can be written as a PyTorch file
and read back.
"""

import logging

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import HEADS_OUT, LINEAR, PACKED_IN
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors, find_family, keys_of
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.generator.sizes import SIZES

logger = logging.getLogger(__name__)

TOKENIZER = "tokenizer."
MAX_CODES = 64  # ids of a place; UniTok has 8
DEFAULT_GRID = (16, 16)  # of 256 px
ROPE = "a table of rotary positions, which is computed here"


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> GeneratorConfig:
    """Returns the config of a GPT whose tensors' names begin with `prefix`."""
    width = shape_of(tensors, f"{prefix}norm.weight", 1)[0]
    depth = count_layers(tensors, prefix + r"layers\.(\d+)\.")
    fields = _condition(tensors, prefix) | _inputs(tensors, prefix, width)
    tokenizer = _tokenizer(tensors, hints, prefix)
    named = _named(width, depth, fields)
    if hints.num_heads is None and named is None:
        raise UserError(
            "expected a named size or num_heads: shapes don't tell the number of attention heads. "
            "Pass --num-heads (or num_heads=...)"
        )
    gpt = GPTConfig(
        width,
        depth,
        named.num_heads if hints.num_heads is None else hints.num_heads,
        shape_of(tensors, f"{prefix}layers.0.feed_forward.w1.weight", 2)[0],
        grid=_grid(hints, named, tokenizer),
        **fields,
    )
    return GeneratorConfig(gpt, tokenizer)


def rules(config: GeneratorConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    gpt, block = f"{target}gpt", f"{target}gpt/stack/blocks_{{i}}"
    condition, layer = f"{source}cls_embedding", f"{source}layers.{{i}}"
    several = config.gpt.codes_per_place > 1
    code, codes = (".{i}", "codes_{i}") if several else ("", "codes_0")
    found = [
        Rule(f"{condition}.embedding_table.weight", f"{gpt}/condition/embed"),
        Rule(f"{condition}.cap_proj.fc1.weight", f"{gpt}/condition/fc1/kernel", LINEAR),
        Rule(f"{condition}.cap_proj.fc2.weight", f"{gpt}/condition/fc2/kernel", LINEAR),
        Rule(f"{condition}.uncond_embedding", f"{gpt}/condition/uncond"),
        Rule(f"{source}tok_embeddings{code}.weight", f"{gpt}/embed/{codes}"),
        Rule(f"{source}code_embedding.weight", f"{gpt}/code_embed/kernel", LINEAR),
        Rule(f"{source}semantic.linear.weight", f"{gpt}/fuse/linear/kernel", LINEAR),
        Rule(f"{source}semantic.start", f"{gpt}/fuse/start"),
        Rule(f"{layer}.attention.wqkv.weight", f"{block}/attn/qkv/kernel", PACKED_IN),
        Rule(f"{layer}.attention.wo.weight", f"{block}/attn/proj/kernel", HEADS_OUT),
        Rule(f"{layer}.feed_forward.w1.weight", f"{block}/mlp/gate/kernel", LINEAR),
        Rule(f"{layer}.feed_forward.w3.weight", f"{block}/mlp/fc1/kernel", LINEAR),
        Rule(f"{layer}.feed_forward.w2.weight", f"{block}/mlp/fc2/kernel", LINEAR),
        Rule(f"{layer}.attention_norm.weight", f"{block}/norm1/scale"),
        Rule(f"{layer}.ffn_norm.weight", f"{block}/norm2/scale"),
        Rule(f"{source}norm.weight", f"{gpt}/norm/scale"),
        Rule(f"{source}output{code}.weight", f"{gpt}/head/{codes}", LINEAR),
        Rule(f"{source}output_before.{{i}}.weight", f"{gpt}/head/before_{{i}}"),
    ]
    if config.tokenizer is not None:
        keys = keys_of(config.tokenizer)
        found += keys.rules(config.tokenizer, source + TOKENIZER, f"{target}tokenizer/")
    return found


def _condition(tensors, prefix):
    """Fields of the condition: classes, or captions."""
    table = f"{prefix}cls_embedding.embedding_table.weight"
    if table in tensors:
        return {"num_classes": shape_of(tensors, table, 2)[0] - 1}
    length, width = shape_of(tensors, f"{prefix}cls_embedding.uncond_embedding", 2)
    return {"num_classes": 0, "caption_dim": width, "caption_length": length}


def _inputs(tensors, prefix, width):
    """Fields of the ids and of what stands for them at the input."""
    if f"{prefix}output.weight" in tensors:
        heads = [f"{prefix}output.weight"]
    else:
        count = count_layers(tensors, prefix + r"output\.(\d+)\.weight", MAX_CODES)
        heads = [f"{prefix}output.{i}.weight" for i in range(count)]
    fields = {"codebook_sizes": tuple(shape_of(tensors, head, 2)[0] for head in heads)}
    code, fuse = f"{prefix}code_embedding.weight", f"{prefix}semantic.linear.weight"
    if code in tensors:
        fields |= {"code_input": "codebook", "code_dim": shape_of(tensors, code, 2)[1]}
    if fuse in tensors:
        joined = shape_of(tensors, fuse, 2)[1]
        dim = shape_of(tensors, f"{prefix}semantic.start", 1)[0]
        semantic = "concat" if joined == width + dim else "add"
        fields |= {"semantic": semantic, "semantic_dim": dim}
    return fields


def _tokenizer(tensors, hints, prefix):
    """The config of the tokenizer that stands beside the GPT, or None."""
    prefix += TOKENIZER
    if not any(name.startswith(prefix) for name in tensors):
        return None
    family = find_family(tensors, prefix)
    return family.keys.infer(tensors, Hints(family=hints.family), prefix)


def _named(width, depth, fields):
    """The sizes of the named generator of this width and depth, or None."""
    is_of_captions = "caption_dim" in fields
    for size in (size.gpt for size in SIZES.values()):
        if (size.width, size.depth, bool(size.caption_dim)) == (width, depth, is_of_captions):
            return size
    for size in (size.gpt for size in SIZES.values()):
        if (size.width, size.depth) == (width, depth):
            return size
    return None


def _grid(hints, named, tokenizer):
    if hints.grid is not None:
        return (hints.grid,) * 2 if isinstance(hints.grid, int) else tuple(hints.grid)
    if hasattr(tokenizer, "vision"):
        return tokenizer.vision.grid
    # Shapes don't tell it, and LlamaGen's models of both sizes have the same.
    grid = DEFAULT_GRID if named is None else named.grid
    logger.warning(
        "the file doesn't tell the grid of its images: %d x %d ids were taken; pass grid=... or "
        "--grid if it is another, such as 24 for LlamaGen's models of 384 px",
        *grid,
    )
    return grid


KEYS = ForeignKeys(
    ("layers.0.attention.wqkv.weight", "layers.0.feed_forward.w1.weight"),
    infer,
    rules,
    hints=("num_heads", "grid"),
    unused={"freqs_cis": ROPE},
)
