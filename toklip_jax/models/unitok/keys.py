"""The names that UniTok has in PyTorch: the original's, which its copies at Hugging Face kept."""

import logging

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import (
    HEADS_IN_BIAS,
    HEADS_OUT,
    LINEAR,
    PACKED_IN,
    block_rules,
    conv_rules,
    linear_rules,
    norm_rules,
)
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.unitok.config import NUM_STAGES, UniTokConfig
from toklip_jax.models.unitok.sizes import SIZES

logger = logging.getLogger(__name__)

MAX_BLOCKS, MAX_CODEBOOKS = 64, 64  # of a stage; published are at most 4, and 8
BACKBONE = "encoder.patch_embed.backbone."
CODEBOOKS = "quantizer.codebooks."
BLOCK = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.w1",
    "fc2": "mlp.w2",
}
USAGE = "a counter of codes lately used in training, no parameter"
NO_KEY_BIAS = "zeros in the place of a bias of keys, which attention would not notice"
NO_POSITIONS = "zeros in the place of a position table"
TEXT = "a part of the text tower that UniTok was trained with, not of the tokenizer"
TEXT_NAMES = (
    "token_embedding.weight",
    "positional_embedding",
    "ln_final.weight",
    "ln_final.bias",
    "text_projection",
    "attn_mask",
)
TEXT_BLOCK_NAMES = (
    "ln_1.weight",
    "ln_1.bias",
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> UniTokConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`.

    Within TokLIP, hints are its token encoder's.
    """
    if prefix or hints.is_causal is None:
        logger.warning(
            "took %s for UniTok of April 2025 or later; that of February 2025 has the same names "
            "and shapes, but causal projections, and so other ids: %s",
            "the VQ tokenizer within these weights" if prefix else "these weights",
            "keep TokLIP on it in a converted directory, whose config says it"
            if prefix
            else "is_causal=True, or `convert to-jax --causal`, says that they are these",
        )
    _expect_no_positions(tensors, f"{prefix}encoder.pos_embed")
    backbone, books = f"{prefix}{BACKBONE}", f"{prefix}{CODEBOOKS}"
    codebook_size, codebook_dim = shape_of(tensors, f"{books}0.codebook.weight", 2)
    depth = count_layers(tensors, f"{prefix}encoder" + r"\.blocks\.(\d+)\.")
    mlp_dim, width = shape_of(tensors, f"{prefix}encoder.blocks.0.mlp.w0.weight", 2)
    has_head = f"{prefix}projection.weight" in tensors
    return UniTokConfig(
        codebook_size=codebook_size,
        num_codebooks=count_layers(tensors, books + r"(\d+)\.", MAX_CODEBOOKS),
        codebook_dim=codebook_dim,
        channels=tuple(
            shape_of(tensors, f"{backbone}stages.{i}.0.conv3_1x1.weight", 4)[0]
            for i in range(NUM_STAGES)
        ),
        depths=tuple(
            count_layers(tensors, backbone + rf"stages\.{i}\.(\d+)\.", MAX_BLOCKS)
            for i in range(NUM_STAGES)
        ),
        up_depths=tuple(
            count_layers(tensors, f"{prefix}decoder" + rf"\.up_conv{i + 2}\.(\d+)\.", MAX_BLOCKS)
            for i in range(NUM_STAGES)
        ),
        width=width,
        depth=depth,
        num_heads=_num_heads((width, depth), hints, prefix),
        mlp_dim=mlp_dim,
        feature_dim=shape_of(tensors, f"{prefix}projection.weight", 2)[0] if has_head else 0,
        is_causal=bool(hints.is_causal) and not prefix,
    )


def rules(config: UniTokConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    return [
        *_encoder_rules(source, f"{target}encoder"),
        *_projection_rules(f"{source}quant_proj", f"{target}quant_proj", LINEAR),
        Rule(f"{source}{CODEBOOKS}{{i}}.codebook.weight", f"{target}quantiser/codebook[{{i}}]"),
        Rule(f"{source}{CODEBOOKS}{{i}}.vocab_usage", None, reason=USAGE),
        *_projection_rules(f"{source}post_quant_proj", f"{target}post_quant_proj", HEADS_OUT),
        *_decoder_rules(f"{source}decoder", f"{target}decoder"),
        *norm_rules(f"{source}fc_norm", f"{target}feature_norm"),
        *linear_rules(f"{source}projection", f"{target}feature_proj"),
        *_text_rules(source),
    ]


def _encoder_rules(source, target):
    backbone = f"{source}{BACKBONE}"
    block, ours = f"{backbone}stages.{{i}}.{{j}}", f"{target}/stages_{{i}}_block_{{j}}"
    return [
        Rule(f"{source}encoder.pos_embed", None, reason=NO_POSITIONS),
        *conv_rules(f"{backbone}stem.conv1", f"{target}/stem_0"),
        *norm_rules(f"{backbone}stem.norm1", f"{target}/stem_norm"),
        *conv_rules(f"{backbone}stem.conv2", f"{target}/stem_1"),
        *_mobile_rules(block, ours),
        *conv_rules(f"{block}.shortcut.expand", f"{ours}/shortcut"),
        *norm_rules(f"{backbone}pool.norm", f"{target}/embed_norm"),
        *conv_rules(f"{backbone}pool.proj", f"{target}/embed"),
        *_transformer_rules(f"{source}encoder", target),
    ]


def _decoder_rules(source, target):
    found = [
        *_transformer_rules(source, target),
        *conv_rules(f"{source}.up_conv1.conv", f"{target}/unembed/conv"),
        *conv_rules(f"{source}.up_conv4.conv1.conv", f"{target}/stem_0/conv"),
        *norm_rules(f"{source}.up_conv4.norm1", f"{target}/stem_norm"),
        *conv_rules(f"{source}.up_conv4.conv2", f"{target}/stem_1"),
    ]
    for i in range(NUM_STAGES):
        block, ours = f"{source}.up_conv{i + 2}.{{j}}", f"{target}/stages_{i}_block_{{j}}"
        found += _mobile_rules(block, ours)
        found += conv_rules(f"{block}.up.conv", f"{ours}/upsample/conv")
        found += conv_rules(f"{block}.shortcut.conv", f"{ours}/shortcut/conv")
    return found


def _mobile_rules(source, target):
    return [
        *norm_rules(f"{source}.pre_norm", f"{target}/norm"),
        *conv_rules(f"{source}.conv1_1x1", f"{target}/expand"),
        *conv_rules(f"{source}.conv2_kxk", f"{target}/depthwise"),
        *conv_rules(f"{source}.conv3_1x1", f"{target}/reduce"),
    ]


def _transformer_rules(source, target):
    block, ours = f"{source}.blocks.{{i}}", f"{target}/stack/blocks_{{i}}"
    return [
        *block_rules(block, ours, BLOCK),
        *norm_rules(f"{block}.mlp.norm", f"{ours}/mlp_norm"),
        *linear_rules(f"{block}.mlp.w0", f"{ours}/mlp/gate"),
        *norm_rules(f"{source}.norm", f"{target}/norm"),
    ]


def _projection_rules(source, target, out):
    """The rules of an `AttentionProjection`; `out` is the pattern of its attention's last layer."""
    return [
        *linear_rules(f"{source}.proj", f"{target}/proj"),
        *norm_rules(f"{source}.norm3", f"{target}/proj_norm"),
        *norm_rules(f"{source}.norm1", f"{target}/attn_norm"),
        Rule(f"{source}.attn.qkv.weight", f"{target}/attn/qkv/kernel", PACKED_IN),
        Rule(f"{source}.attn.q_bias", f"{target}/attn/q_bias", HEADS_IN_BIAS),
        Rule(f"{source}.attn.v_bias", f"{target}/attn/v_bias", HEADS_IN_BIAS),
        Rule(f"{source}.attn.zero_k_bias", None, reason=NO_KEY_BIAS),
        *linear_rules(f"{source}.attn.proj", f"{target}/attn/proj", out),
        *norm_rules(f"{source}.norm2", f"{target}/mlp_norm_0"),
        *norm_rules(f"{source}.mlp.norm", f"{target}/mlp_norm_1"),
        *linear_rules(f"{source}.mlp.w0", f"{target}/mlp/gate"),
        *linear_rules(f"{source}.mlp.w1", f"{target}/mlp/fc1"),
        *linear_rules(f"{source}.mlp.w2", f"{target}/mlp/fc2"),
    ]


def _text_rules(source):
    blocks = (f"transformer.resblocks.{{i}}.{name}" for name in TEXT_BLOCK_NAMES)
    names = [f"text_encoder.{name}" for name in (*TEXT_NAMES, *blocks)]
    return [Rule(f"{source}{name}", None, reason=TEXT) for name in ("logit_scale", *names)]


def _num_heads(size, hints, prefix):
    """The number of heads of both transformers, which their (width, depth) don't tell."""
    if hints.num_heads is not None and not prefix:
        return hints.num_heads
    for named in SIZES.values():
        if (named.width, named.depth) == size:
            return named.num_heads
    raise UserError(
        f"expected the width and depth of a named size or num_heads, got {size[0]} and {size[1]}: "
        f"shapes don't tell the number of heads. Pass --num-heads (or num_heads=...) with "
        f"a file of the tokenizer alone"
    )


def _expect_no_positions(tensors, name):
    """Raises ValueError for a position table that is not zero, which no published file has."""
    if name in tensors and np.any(np.asarray(tensors[name])):
        raise UserError(
            f"expected zeros in {name}, as in UniTok's published weights, got other numbers: "
            f"position tables are not supported"
        )


KEYS = ForeignKeys(
    (f"{BACKBONE}stem.conv1.weight", f"{CODEBOOKS}0.codebook.weight", "quant_proj.attn.qkv.weight"),
    infer,
    rules,
    hints=("num_heads", "is_causal"),
)
