"""Outputs of a VQ tokenizer: ids, code vectors, and images restored from ids."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.evaluation.outputs.base import Context, register_output
from toklip_jax.metrics import psnr, ssim
from toklip_jax.ops.pixels import to_unit_range


def images(context: Context) -> Float[Array, "b *size 3"]:
    """Returns the images in [-1, 1], float32; those decoded from ids where there are no others."""
    if "images" not in context.batch:
        return context.get(restored)
    return to_unit_range(context.batch["images"])


@register_output("ids", needs=("vq",))
def ids(context: Context) -> Int[Array, "b n *q"]:
    """Returns the ids, int32."""
    if "ids" in context.batch:
        return context.batch["ids"].astype(jnp.int32)
    return context.apply("vq", "tokenize", context.get(images))


def restored(context: Context) -> Float[Array, "b *size 3"]:
    """Returns the images that the ids are decoded to, clipped to [-1, 1], float32."""
    grid = context.models.decoded_grid(_grid(context))
    others = () if grid is None else (grid,)
    pixels = context.apply("vq", "detokenize", context.get(ids), *others)
    return jnp.clip(pixels.astype(jnp.float32), -1, 1)


@register_output("code", needs=("vq",))
def code(context: Context) -> Float[Array, "b c"]:
    """Returns the mean of the ids' code vectors, float32."""
    return jnp.mean(context.apply("vq", "code_vectors", context.get(ids)), axis=1)


@register_output("psnr", needs=("vq",), pixels="original")
def psnr_of_restored(context: Context) -> Float[Array, " b"]:
    """Returns the PSNR of the restored images, dB."""
    return psnr(context.get(images), context.get(restored))


@register_output("ssim", needs=("vq",), pixels="original")
def ssim_of_restored(context: Context) -> Float[Array, " b"]:
    """Returns the SSIM of the restored images."""
    return ssim(context.get(images), context.get(restored))


def _grid(context):
    """The grid of the ids; None, where nobody says, is a square."""
    if "images" in context.batch:
        return context.models.vq_config.grid_of(*context.batch["images"].shape[1:-1])
    return context.grid
