"""Outputs that hand on what the batch holds, and the features of its own texts."""

from jaxtyping import Array, Float

from toklip_jax.evaluation.outputs.base import Context, register_output
from toklip_jax.ops.normalize import l2_normalize


@register_output("labels")
def labels(context: Context) -> Array:
    """Returns the labels, int [b]."""
    return context.field("labels", "name its labels in the source")


@register_output("token_ids")
def token_ids(context: Context) -> Array:
    """Returns the ids of the images' own texts, int [b, t]."""
    return context.field("token_ids", "name its captions in the source")


@register_output("text", needs=("text",))
def text(context: Context) -> Float[Array, "b d"]:
    """Returns the normalised features of the batch's own texts, float32."""
    return l2_normalize(context.apply("text", "text_features", context.get(token_ids)))
