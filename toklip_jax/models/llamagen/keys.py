"""The names that LlamaGen's VQ checkpoints have, alone or within another model's file."""

from toklip_jax.files.layouts import conv_rules
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.llamagen.janus import JANUS
from toklip_jax.models.vqgan_names import attention_rules, end_rules, res_rules

MAX_LEVELS, MAX_RES_BLOCKS = 10, 8  # VQ-16 has 5 and 2
USAGE = "a counter of codes lately used in training, no parameter"
# Janus's files: deepseek-ai's, and Hugging Face's `JanusForConditionalGeneration`.
WITHIN = ("gen_vision_model.", "model.vqmodel.")


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> LlamaGenConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    encoder = prefix + "encoder."
    width, channels_in, *_ = shape_of(tensors, encoder + "conv_in.weight", 4)
    codebook_size, codebook_dim = shape_of(tensors, prefix + "quantize.embedding.weight", 2)
    levels = count_layers(tensors, encoder + r"conv_blocks\.(\d+)\.", MAX_LEVELS)
    widths = [
        shape_of(tensors, f"{encoder}conv_blocks.{i}.res.0.conv1.weight", 4)[0]
        for i in range(levels)
    ]
    return LlamaGenConfig(
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        is_l2_normalised=hints.is_l2_normalised,
        channels=width,
        multipliers=tuple(each // width for each in widths),
        num_res_blocks=count_layers(
            tensors, encoder + r"conv_blocks\.0\.res\.(\d+)\.", MAX_RES_BLOCKS
        ),
        z_channels=shape_of(tensors, encoder + "conv_out.weight", 4)[0],
        stem_patch=max(round((channels_in / 3) ** 0.5), 1),
    )


def rules(config: LlamaGenConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    return [
        *_coder_rules(f"{source}encoder", f"{target}encoder"),
        *_coder_rules(f"{source}decoder", f"{target}decoder"),
        Rule(f"{source}quantize.embedding.weight", f"{target}codebook"),
        Rule(f"{source}quantize.codebook_used", None, reason=USAGE),
        *conv_rules(f"{source}quant_conv", f"{target}quant_conv"),
        *conv_rules(f"{source}post_quant_conv", f"{target}post_quant_conv"),
    ]


def _coder_rules(source, target):
    """The encoder or the decoder: both have the same names."""
    level = f"{source}.conv_blocks.{{i}}"
    return [
        *end_rules(source, target),
        *res_rules(f"{level}.res.{{j}}", f"{target}/levels_{{i}}_res_{{j}}"),
        *attention_rules(f"{level}.attn.{{j}}", f"{target}/levels_{{i}}_attn_{{j}}"),
        *conv_rules(f"{level}.downsample.conv", f"{target}/levels_{{i}}_downsample/conv"),
        *conv_rules(f"{level}.upsample.conv", f"{target}/levels_{{i}}_upsample/conv"),
        *res_rules(f"{source}.mid.0", f"{target}/mid_res_0"),
        *attention_rules(f"{source}.mid.1", f"{target}/mid_attn"),
        *res_rules(f"{source}.mid.2", f"{target}/mid_res_1"),
    ]


KEYS = ForeignKeys(
    ("quantize.embedding.weight", "encoder.conv_blocks.0.res.0.conv1.weight"),
    infer,
    rules,
    hints=("is_l2_normalised",),
    dialects=(JANUS,),
    inside=WITHIN,
)
