"""Outputs of pixels: the images themselves, and the features that FID compares."""

from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.outputs.base import Context, register_output
from toklip_jax.evaluation.outputs.codes import images, restored


@register_output("pixels", pixels="original")
def pixels(context: Context) -> Array:
    """Returns the batch's images as they came, uint8."""
    return context.batch["images"]


@register_output("inception", needs=("inception",), pixels="any")
def inception(context: Context) -> Float[Array, "b p"]:
    """Returns Inception's pooled features of the images, float32."""
    return _features(context, context.get(images)).pool


@register_output("inception_spatial", needs=("inception",), pixels="any")
def inception_spatial(context: Context) -> Float[Array, "b s"]:
    """Returns Inception's spatial features of the images, which sFID compares, float32."""
    return _features(context, context.get(images)).spatial


@register_output("inception_probabilities", needs=("inception",), pixels="any")
def inception_probabilities(context: Context) -> Float[Array, "b v"]:
    """Returns the probabilities of Inception's classes, float32, for the inception score."""
    return _features(context, context.get(images)).probabilities


@register_output("inception_restored", needs=("inception", "vq"), pixels="original")
def inception_restored(context: Context) -> Float[Array, "b p"]:
    """Returns Inception's pooled features of the restored images, float32."""
    return _features(context, context.get(restored)).pool


def _features(context, found):
    if found.ndim != 4:
        raise UserError(
            f"expected images [b, h, w, 3] for FID, got {found.shape}: leave inception out of the "
            f"models where videos are evaluated"
        )
    return context.apply("inception", None, found)
