"""Outputs that are features: of the teacher, and of TokLIP's token encoder."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.evaluation.outputs.base import Context, register_output
from toklip_jax.evaluation.outputs.codes import ids, images
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import fit_images

PREFIXES = (25, 50, 75, 100)  # per cent of the ids


@register_output("teacher", needs=("teacher",), pixels="any", text_space="teacher")
def teacher(context: Context) -> Float[Array, "b d"]:
    """Returns the teacher's pooled feature, normalised; images are resized as in training."""
    pixels, size = context.get(images), context.models.size_of("teacher")
    if size is not None:
        pixels = fit_images(pixels, size)
    return l2_normalize(context.apply("teacher", "image_features", pixels))


def tokens(context: Context) -> Float[Array, "b n d"]:
    """Returns the token encoder's output."""
    return context.apply("toklip", "semantic_tokens", context.get(ids))


@register_output("token", needs=("toklip",))
def token(context: Context) -> Float[Array, "b d"]:
    """Returns the mean of the token encoder's output, float32."""
    return jnp.mean(context.get(tokens).astype(jnp.float32), axis=1)


@register_output("image", needs=("toklip",), text_space="TokLIP")
def image(context: Context) -> Float[Array, "b d"]:
    """Returns TokLIP's pooled feature, normalised."""
    return l2_normalize(context.apply("toklip", "pool_tokens", context.get(tokens)))


@register_output("prefix", needs=("toklip",))
def prefix(context: Context) -> Float[Array, "b k d"]:
    """Returns the pooled feature of each of `PREFIXES`, normalised."""
    return l2_normalize(
        context.apply("toklip", "prefix_features", context.get(ids), _counts(context))
    )


@register_output("prefix_token", needs=("toklip",))
def prefix_token(context: Context) -> Float[Array, "b k d"]:
    """Returns the mean of the tokens of each of `PREFIXES`, float32."""
    found = context.get(tokens).astype(jnp.float32)
    return jnp.stack([jnp.mean(found[:, :k], axis=1) for k in _counts(context)], axis=1)


def prefix_counts(num_tokens: int) -> tuple[int, ...]:
    """Returns how many places each of `PREFIXES` is, rounded, at least one."""
    return tuple(max(1, round(num_tokens * share / 100)) for share in PREFIXES)


def _counts(context):
    return prefix_counts(context.models.config("toklip").vision.num_tokens)
