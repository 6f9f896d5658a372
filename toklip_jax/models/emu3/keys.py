"""The names that Emu3's vision tokenizer has in PyTorch, in its authors' files."""

from toklip_jax.files.layouts import CONV_3D, conv_rules, linear_rules, norm_rules
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.emu3.hugging_face import HUGGING_FACE
from toklip_jax.models.vqgan_names import MARKS, decoder_rules, encoder_rules, sizes_of

MAX_TEMPORAL_LEVELS = 6  # the published weights have 2
TIME_CONV = "encoder.time_conv.{}.conv.conv.weight"
WITHIN = "model.vqmodel."  # Hugging Face's `Emu3ForConditionalGeneration`
BATCHES = "a counter of training's batches, no parameter"


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> Emu3Config:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    del hints
    size, dim = shape_of(tensors, f"{prefix}quantize.embedding.weight", 2)
    sizes = sizes_of(tensors, prefix)
    pattern = f"{prefix}encoder" + r"\.time_conv\.(\d+)\."
    return Emu3Config(
        size,
        dim,
        **sizes.without_attention(),
        attention_levels=sizes.attention_levels,
        temporal_levels=count_layers(tensors, pattern, MAX_TEMPORAL_LEVELS),
    )


def rules(config: Emu3Config, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    encoder, decoder = f"{source}encoder", f"{source}decoder"
    levels = len(config.multipliers)
    return [
        *encoder_rules(encoder, f"{target}encoder"),
        *decoder_rules(decoder, f"{target}decoder", levels, conditioned_norm_rules),
        *_temporal_rules(encoder, f"{target}encoder_time", "down"),
        *_temporal_rules(decoder, f"{target}decoder_time", "up"),
        Rule(f"{source}quantize.embedding.weight", f"{target}codebook"),
        *linear_rules(f"{source}quant_conv.conv", f"{target}quant_conv", CONV_3D),
        *linear_rules(f"{source}post_quant_conv.conv", f"{target}post_quant_conv", CONV_3D),
    ]


def conditioned_norm_rules(source: str, target: str) -> list[Rule]:
    """Returns the rules of `nn.convolutional.ConditionedNorm`."""
    return [
        *norm_rules(f"{source}.norm_layer", f"{target}/norm"),
        *conv_rules(f"{source}.conv_y", f"{target}/scale"),
        *conv_rules(f"{source}.conv_b", f"{target}/shift"),
    ]


def _temporal_rules(source: str, target: str, name: str) -> list[Rule]:
    """The convolutions over time of the encoder or the decoder."""
    block, ours = f"{source}.time_res_stack.{{i}}", f"{target}/res_{{i}}"
    time_conv = f"{source}.time_conv.{{i}}.conv.conv"
    found = linear_rules(time_conv, f"{target}/{name}_{{i}}", CONV_3D)
    for part in (1, 2):
        found += _batch_norm_rules(f"{block}.norm{part}", f"{ours}/norm{part}")
        found += linear_rules(f"{block}.conv{part}.conv", f"{ours}/conv{part}", CONV_3D)
    return found


def _batch_norm_rules(source: str, target: str) -> list[Rule]:
    return [
        *norm_rules(source, target),
        Rule(f"{source}.running_mean", f"{target}/mean"),
        Rule(f"{source}.running_var", f"{target}/var"),
        Rule(f"{source}.num_batches_tracked", None, reason=BATCHES),
    ]


# VQGAN's descendants without convolutions over time have the other marks too.
KEYS = ForeignKeys(
    (*MARKS, TIME_CONV.format(0)), infer, rules, dialects=(HUGGING_FACE,), inside=(WITHIN,)
)
