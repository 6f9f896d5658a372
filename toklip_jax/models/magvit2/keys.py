"""The names that Open-MAGVIT2's tokenizers have in PyTorch; of the quantiser there are none."""

from toklip_jax.files.layouts import conv_rules, linear_rules
from toklip_jax.files.rules import Rule
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.magvit2.config import Magvit2Config
from toklip_jax.models.vqgan_names import BESIDE, end_rules, res_rules, sizes_of


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> Magvit2Config:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    del hints
    return Magvit2Config(**sizes_of(tensors, prefix).without_attention())


def rules(config: Magvit2Config, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    encoder, decoder = f"{source}encoder", f"{source}decoder"
    levels = len(config.multipliers)
    return [
        *_encoder_rules(encoder, f"{target}encoder"),
        *_decoder_rules(decoder, f"{target}decoder", levels),
    ]


def _encoder_rules(source, target):
    level, ours = f"{source}.down.{{i}}", f"{target}/levels_{{i}}"
    return [
        *_common_rules(source, target),
        *res_rules(f"{level}.block.{{j}}", f"{ours}_res_{{j}}"),
        *conv_rules(f"{level}.downsample", f"{ours}_downsample"),
    ]


def _decoder_rules(source, target, levels):
    """The decoder counts its levels the other way."""
    found = _common_rules(source, target)
    for i in range(levels):
        number, ours = levels - 1 - i, f"{target}/levels_{i}"
        norm = f"{source}.adaptive.{number}"
        found += linear_rules(f"{norm}.gamma", f"{ours}_norm/scale")
        found += linear_rules(f"{norm}.beta", f"{ours}_norm/shift")
        found += res_rules(f"{source}.up.{number}.block.{{j}}", f"{ours}_res_{{j}}")
        found += conv_rules(f"{source}.up.{number}.upsample.conv1", f"{ours}_upsample")
    return found


def _common_rules(source, target):
    return [
        *end_rules(source, target),
        *res_rules(f"{source}.mid_block.{{j}}", f"{target}/mid_res_{{j}}"),
    ]


KEYS = ForeignKeys(
    ("encoder.mid_block.0.conv1.weight", "decoder.adaptive.0.gamma.weight"),
    infer,
    rules,
    unused=BESIDE,
)
