"""The names that VQGAN's encoder and decoder have in PyTorch, which its descendants kept."""

import dataclasses
from collections.abc import Callable
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import conv_rules, norm_rules
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import Tensors

MAX_LEVELS, MAX_RES_BLOCKS = 10, 8  # released tokenizers have up to 5 and 4
MARKS = ("encoder.down.0.block.0.conv1.weight", "quantize.embedding.weight")
NormRules = Callable[[str, str], list[Rule]]  # of a norm's name in PyTorch, and its path here
# What Lightning's checkpoints of these tokenizers hold beside them.
BESIDE = {
    "loss.": "a part of the losses that it was trained with, not of the tokenizer",
    "model_ema.": "the running mean that was not taken, or a counter of it",
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder that its tensors' shapes tell; see `ConvolutionalVQConfig`."""

    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    stem_patch: int
    attention_levels: tuple[int, ...]

    def without_attention(self) -> dict[str, Any]:
        """Returns the fields that every convolutional tokenizer's config has."""
        fields = dataclasses.asdict(self)
        del fields["attention_levels"]
        return fields


def is_vqgans(tensors: Tensors, prefix: str = "") -> bool:
    """Tells whether a decoder's levels are counted from the highest resolution, as VQGAN's are.

    Hugging Face's Janus has the same names, counted from the lowest, which is upsampled first.
    """
    return f"{prefix}decoder.up.0.upsample.conv.weight" not in tensors


def sizes_of(tensors: Tensors, prefix: str = "") -> Sizes:
    """Returns the sizes of the encoder whose tensors' names begin with `prefix`.

    Raises:
        ValueError: tensors that tell them are missing or misshaped, or the names are only alike.
    """
    if not is_vqgans(tensors, prefix):
        raise UserError(
            f"expected {prefix}decoder.up.0 to have the highest resolution, got an upsampling "
            f"there, as Hugging Face's Janus has it: leave the family out, or say 'llamagen'"
        )
    encoder = f"{prefix}encoder."
    width, channels_in, *_ = shape_of(tensors, f"{encoder}conv_in.weight", 4)
    levels = range(count_layers(tensors, encoder + r"down\.(\d+)\.", MAX_LEVELS))
    widths = [shape_of(tensors, f"{encoder}down.{i}.block.0.conv1.weight", 4)[0] for i in levels]
    return Sizes(
        channels=width,
        multipliers=tuple(each // width for each in widths),
        num_res_blocks=count_layers(tensors, encoder + r"down\.0\.block\.(\d+)\.", MAX_RES_BLOCKS),
        z_channels=shape_of(tensors, f"{encoder}conv_out.weight", 4)[0],
        stem_patch=max(round((channels_in / 3) ** 0.5), 1),
        attention_levels=tuple(
            i for i in levels if f"{encoder}down.{i}.attn.0.q.weight" in tensors
        ),
    )


def vqgan_rules(levels: int, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map of an encoder, a decoder, a codebook and both 1x1 convolutions.

    Args:
        levels: how many levels of resolution there are.
    """
    return [
        *encoder_rules(f"{source}encoder", f"{target}encoder"),
        *decoder_rules(f"{source}decoder", f"{target}decoder", levels),
        Rule(f"{source}quantize.embedding.weight", f"{target}codebook"),
        *conv_rules(f"{source}quant_conv", f"{target}quant_conv"),
        *conv_rules(f"{source}post_quant_conv", f"{target}post_quant_conv"),
    ]


def encoder_rules(source: str, target: str) -> list[Rule]:
    """Returns the map of `nn.convolutional.Encoder`."""
    level = f"{source}.down.{{i}}"
    return [
        *end_rules(source, target),
        *res_rules(f"{level}.block.{{j}}", f"{target}/levels_{{i}}_res_{{j}}"),
        *attention_rules(f"{level}.attn.{{j}}", f"{target}/levels_{{i}}_attn_{{j}}"),
        *conv_rules(f"{level}.downsample.conv", f"{target}/levels_{{i}}_downsample/conv"),
        *middle_rules(f"{source}.mid", target),
    ]


def decoder_rules(
    source: str, target: str, levels: int, norm: NormRules = norm_rules
) -> list[Rule]:
    """Returns the map of `nn.convolutional.Decoder`, which counts its levels the other way."""
    found = [*end_rules(source, target, norm), *middle_rules(f"{source}.mid", target, norm)]
    for i in range(levels):
        level, ours = f"{source}.up.{levels - 1 - i}", f"{target}/levels_{i}"
        found += res_rules(f"{level}.block.{{j}}", f"{ours}_res_{{j}}", norm)
        found += attention_rules(f"{level}.attn.{{j}}", f"{ours}_attn_{{j}}", norm)
        found += conv_rules(f"{level}.upsample.conv", f"{ours}_upsample/conv")
    return found


def end_rules(source: str, target: str, norm: NormRules = norm_rules) -> list[Rule]:
    """Returns the rules of the first convolution, the last norm and the last convolution."""
    return [
        *conv_rules(f"{source}.conv_in", f"{target}/conv_in"),
        *norm(f"{source}.norm_out", f"{target}/norm_out"),
        *conv_rules(f"{source}.conv_out", f"{target}/conv_out"),
    ]


def middle_rules(source: str, target: str, norm: NormRules = norm_rules) -> list[Rule]:
    """Returns the rules of `nn.convolutional.middle`."""
    return [
        *res_rules(f"{source}.block_1", f"{target}/mid_res_0", norm),
        *attention_rules(f"{source}.attn_1", f"{target}/mid_attn", norm),
        *res_rules(f"{source}.block_2", f"{target}/mid_res_1", norm),
    ]


def res_rules(source: str, target: str, norm: NormRules = norm_rules) -> list[Rule]:
    """Returns the rules of a residual block."""
    return [
        *norm(f"{source}.norm1", f"{target}/norm1"),
        *conv_rules(f"{source}.conv1", f"{target}/conv1"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *conv_rules(f"{source}.conv2", f"{target}/conv2"),
        *conv_rules(f"{source}.nin_shortcut", f"{target}/shortcut"),
    ]


def attention_rules(source: str, target: str, norm: NormRules = norm_rules) -> list[Rule]:
    """Returns the rules of an attention block."""
    return [
        *norm(f"{source}.norm", f"{target}/norm"),
        *(rule for name in "qkv" for rule in conv_rules(f"{source}.{name}", f"{target}/{name}")),
        *conv_rules(f"{source}.proj_out", f"{target}/proj"),
    ]
