"""The maps: PyTorch's names and layouts on the left, ours on the right.

LlamaGen's names stand alone or, in TokLIP's files, under `visual.trunk.vq.`. The image towers have
timm's names, the text tower open_clip's, Inception those of torchvision and pytorch-fid.
"""

from toklip_jax.convert.rules import Rule

LINEAR = "o i -> i o"
CONV = "o i h w -> h w i o"
PACKED_IN, PACKED_IN_BIAS = "(p k e) d -> d p k e", "(p k e) -> p k e"  # q, k, v or k, v
HEADS_IN, HEADS_IN_BIAS = "(k e) d -> d k e", "(k e) -> k e"
HEADS_OUT = "d (k e) -> k e d"
CLASSIFIER = "the classifier, of which FID makes no use"
BATCHES = "a counter of training's batches, no parameter"
USAGE = "a counter of codes lately used in training, no parameter"


def linear(source: str, target: str, pattern: str = LINEAR) -> list[Rule]:
    """Weight and bias of a linear layer or, with its pattern, a convolution."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", pattern),
        Rule(f"{source}.bias", f"{target}/bias"),
    ]


def norm(source: str, target: str) -> list[Rule]:
    """Scale and bias of a norm."""
    return [
        Rule(f"{source}.weight", f"{target}/scale"),
        Rule(f"{source}.bias", f"{target}/bias"),
    ]


def conv(source: str, target: str) -> list[Rule]:
    """Kernel and bias of a convolution."""
    return linear(source, target, CONV)


def block_rules(source: str, target: str, names: dict[str, str]) -> list[Rule]:
    """A transformer block; `names` are the source's for norms, projections and MLP."""
    packed, dot = names["qkv"], "" if names["qkv"].endswith("_") else "."
    return [
        *norm(f"{source}.{names['norm1']}", f"{target}/norm1"),
        Rule(f"{source}.{packed}{dot}weight", f"{target}/attn/qkv/kernel", PACKED_IN),
        Rule(f"{source}.{packed}{dot}bias", f"{target}/attn/qkv/bias", PACKED_IN_BIAS),
        *linear(f"{source}.{names['proj']}", f"{target}/attn/proj", HEADS_OUT),
        *norm(f"{source}.{names['norm2']}", f"{target}/norm2"),
        *linear(f"{source}.{names['fc1']}", f"{target}/mlp/fc1"),
        *linear(f"{source}.{names['fc2']}", f"{target}/mlp/fc2"),
    ]


TIMM_BLOCK = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
OPEN_CLIP_BLOCK = {
    "norm1": "ln_1",
    "qkv": "attn.in_proj_",
    "proj": "attn.out_proj",
    "norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def tower_rules(target: str) -> list[Rule]:
    """What teacher and token encoder share of timm's image tower."""
    trunk, pool = "visual.trunk", "visual.trunk.attn_pool"
    return [
        Rule(f"{trunk}.pos_embed", f"{target}/pos_embed", "1 n d -> n d"),
        *block_rules(f"{trunk}.blocks.{{i}}", f"{target}/stack/blocks_{{i}}", TIMM_BLOCK),
        *norm(f"{trunk}.norm", f"{target}/norm"),
        Rule(f"{pool}.latent", f"{target}/pool/latent", "1 n d -> n d"),
        Rule(f"{pool}.q.weight", f"{target}/pool/q/kernel", HEADS_IN),
        Rule(f"{pool}.q.bias", f"{target}/pool/q/bias", HEADS_IN_BIAS),
        Rule(f"{pool}.kv.weight", f"{target}/pool/kv/kernel", PACKED_IN),
        Rule(f"{pool}.kv.bias", f"{target}/pool/kv/bias", PACKED_IN_BIAS),
        *linear(f"{pool}.proj", f"{target}/pool/proj", HEADS_OUT),
        *norm(f"{pool}.norm", f"{target}/pool/norm"),
        *linear(f"{pool}.mlp.fc1", f"{target}/pool/mlp/fc1"),
        *linear(f"{pool}.mlp.fc2", f"{target}/pool/mlp/fc2"),
    ]


TEXT_RULES = [
    Rule("text.token_embedding.weight", "text_tower/token_embed"),
    Rule("text.positional_embedding", "text_tower/pos_embed"),
    *block_rules("text.transformer.resblocks.{i}", "text_tower/stack/blocks_{i}", OPEN_CLIP_BLOCK),
    *norm("text.ln_final", "text_tower/norm"),
    *linear("text.text_projection", "text_tower/proj"),
    Rule("logit_scale", "logit_scale"),
    Rule("logit_bias", "logit_bias"),
]


def res_rules(source: str, target: str) -> list[Rule]:
    """A residual block of the VQ's convolutional halves."""
    return [
        *norm(f"{source}.norm1", f"{target}/norm1"),
        *conv(f"{source}.conv1", f"{target}/conv1"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *conv(f"{source}.conv2", f"{target}/conv2"),
        *conv(f"{source}.nin_shortcut", f"{target}/shortcut"),
    ]


def attn_rules(source: str, target: str) -> list[Rule]:
    """An attention block of the VQ's convolutional halves."""
    return [
        *norm(f"{source}.norm", f"{target}/norm"),
        *(rule for name in "qkv" for rule in conv(f"{source}.{name}", f"{target}/{name}")),
        *conv(f"{source}.proj_out", f"{target}/proj"),
    ]


def half_rules(source: str, target: str) -> list[Rule]:
    """The VQ's encoder or decoder."""
    level = f"{source}.conv_blocks.{{i}}"
    return [
        *conv(f"{source}.conv_in", f"{target}/conv_in"),
        *res_rules(f"{level}.res.{{j}}", f"{target}/levels_{{i}}_res_{{j}}"),
        *attn_rules(f"{level}.attn.{{j}}", f"{target}/levels_{{i}}_attn_{{j}}"),
        *conv(f"{level}.downsample.conv", f"{target}/levels_{{i}}_downsample/conv"),
        *conv(f"{level}.upsample.conv", f"{target}/levels_{{i}}_upsample/conv"),
        *res_rules(f"{source}.mid.0", f"{target}/mid_res_0"),
        *attn_rules(f"{source}.mid.1", f"{target}/mid_attn"),
        *res_rules(f"{source}.mid.2", f"{target}/mid_res_1"),
        *norm(f"{source}.norm_out", f"{target}/norm_out"),
        *conv(f"{source}.conv_out", f"{target}/conv_out"),
    ]


def llamagen_rules(source: str, target: str) -> list[Rule]:
    """LlamaGen's VQ under name prefixes of both sides, each with its separator or empty."""
    return [
        *half_rules(f"{source}encoder", f"{target}encoder"),
        *half_rules(f"{source}decoder", f"{target}decoder"),
        Rule(f"{source}quantize.embedding.weight", f"{target}codebook"),
        Rule(f"{source}quantize.codebook_used", None, reason=USAGE),
        *conv(f"{source}quant_conv", f"{target}quant_conv"),
        *conv(f"{source}post_quant_conv", f"{target}post_quant_conv"),
    ]


LLAMAGEN = llamagen_rules("", "")

TEACHER = [
    *conv("visual.trunk.patch_embed.proj", "image_tower/patch_embed"),
    *tower_rules("image_tower"),
    *TEXT_RULES,
]

TOKLIP = [
    *llamagen_rules("visual.trunk.vq.", "vq/"),
    *linear("visual.trunk.vq_table", "token_encoder/mapping/fc1"),
    *linear("visual.trunk.vq_mapping", "token_encoder/mapping/fc2"),
    *tower_rules("token_encoder"),
    *TEXT_RULES,
]


def unit_rules(source: str, target: str) -> list[Rule]:
    """A convolution, its batch norm and that norm's running statistics."""
    return [
        Rule(f"{source}.conv.weight", f"{target}/kernel", CONV),
        *norm(f"{source}.bn", target),
        Rule(f"{source}.bn.running_mean", f"{target}/mean"),
        Rule(f"{source}.bn.running_var", f"{target}/variance"),
        Rule(f"{source}.bn.num_batches_tracked", None, reason=BATCHES),
    ]


def block_of_branches_rules(source: str, target: str) -> list[Rule]:
    """The branches of Inception's blocks; each block has some of them."""
    return [
        *unit_rules(f"{source}.branch{{k}}x{{l}}", f"{target}/branch_{{k}}x{{l}}"),
        *unit_rules(f"{source}.branch{{k}}x{{l}}_{{j}}", f"{target}/branch_{{k}}x{{l}}_{{j}}"),
        *unit_rules(
            f"{source}.branch{{k}}x{{l}}_{{j}}{{A}}", f"{target}/branch_{{k}}x{{l}}_{{j}}{{A}}"
        ),
        *unit_rules(
            f"{source}.branch{{k}}x{{l}}dbl_{{j}}", f"{target}/branch_double_{{k}}x{{l}}_{{j}}"
        ),
        *unit_rules(
            f"{source}.branch{{k}}x{{l}}dbl_{{j}}{{A}}",
            f"{target}/branch_double_{{k}}x{{l}}_{{j}}{{A}}",
        ),
        *unit_rules(f"{source}.branch7x7x3_{{j}}", f"{target}/branch_7x7x3_{{j}}"),
        *unit_rules(f"{source}.branch_pool", f"{target}/branch_pool"),
    ]


INCEPTION = [
    *unit_rules("Conv2d_1{A}_3x3", "conv_1{A}"),
    *unit_rules("Conv2d_2{A}_3x3", "conv_2{A}"),
    *unit_rules("Conv2d_3{A}_1x1", "conv_3{A}"),
    *unit_rules("Conv2d_4{A}_3x3", "conv_4{A}"),
    *block_of_branches_rules("Mixed_{i}{B}", "mixed_{i}{B}"),
    Rule("fc.weight", None, reason=CLASSIFIER),
    Rule("fc.bias", None, reason=CLASSIFIER),
]
