"""Rules for the layers that most PyTorch models have: linear, convolution, norm, attention."""

from toklip_jax.files.rules import Rule

LINEAR = "o i -> i o"
CONV = "o i h w -> h w i o"
CONV_3D = "o i t h w -> t h w i o"
PACKED_IN, PACKED_IN_BIAS = "(p k e) d -> d p k e", "(p k e) -> p k e"  # q, k, v or k, v
HEADS_IN, HEADS_IN_BIAS = "(k e) d -> d k e", "(k e) -> k e"
HEADS_OUT = "d (k e) -> k e d"


def linear_rules(source: str, target: str, pattern: str = LINEAR) -> list[Rule]:
    """Returns the rules of a linear layer's weight and bias; `pattern` rearranges the weight."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", pattern),
        Rule(f"{source}.bias", f"{target}/bias"),
    ]


def norm_rules(source: str, target: str) -> list[Rule]:
    """Returns the rules of a norm's scale and bias."""
    return [
        Rule(f"{source}.weight", f"{target}/scale"),
        Rule(f"{source}.bias", f"{target}/bias"),
    ]


def conv_rules(source: str, target: str) -> list[Rule]:
    """Returns the rules of a two-dimensional convolution's kernel and bias."""
    return linear_rules(source, target, CONV)


def block_rules(source: str, target: str, names: dict[str, str]) -> list[Rule]:
    """Returns the rules of a transformer block with one packed projection for q, k and v.

    Args:
        names: the source's for norm1, qkv, proj, norm2, fc1 and fc2.
    """
    packed, dot = names["qkv"], "" if names["qkv"].endswith("_") else "."
    return [
        *norm_rules(f"{source}.{names['norm1']}", f"{target}/norm1"),
        Rule(f"{source}.{packed}{dot}weight", f"{target}/attn/qkv/kernel", PACKED_IN),
        Rule(f"{source}.{packed}{dot}bias", f"{target}/attn/qkv/bias", PACKED_IN_BIAS),
        *linear_rules(f"{source}.{names['proj']}", f"{target}/attn/proj", HEADS_OUT),
        *norm_rules(f"{source}.{names['norm2']}", f"{target}/norm2"),
        *linear_rules(f"{source}.{names['fc1']}", f"{target}/mlp/fc1"),
        *linear_rules(f"{source}.{names['fc2']}", f"{target}/mlp/fc2"),
    ]
