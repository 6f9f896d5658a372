"""How well a tokenizer keeps images: PSNR, SSIM, and how much of its codebook it uses."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from toklip_jax.evaluation.batches import map_batches, padded_batches
from toklip_jax.metrics import AnyArray, CodeUsage, Estimate, Mean, psnr, ssim, to_unit_range


class Reconstruction(NamedTuple):
    """Figures over a set of images.

    Attributes:
        psnr: mean over images, dB.
        ssim: mean over images.
        code_usage: share of the codes that occur in the set.
        perplexity: effective number of codes.
    """

    psnr: Estimate
    ssim: Estimate
    code_usage: float
    perplexity: float


def evaluate_reconstruction(
    tokenize: Callable[[np.ndarray], AnyArray],
    detokenize: Callable[[AnyArray], AnyArray],
    images: Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"],
    batch_size: int,
    codebook_size: int,
) -> Reconstruction:
    """Measures `detokenize(tokenize(images))` against `images`.

    Args:
        tokenize: float32 images in [-1, 1] to ids, int [b, n].
        detokenize: ids to images, nominally in [-1, 1]; clipped to it before they are compared.
        images: uint8, or float in [-1, 1].
        batch_size: images a call; it changes no figure.
        codebook_size: number of codes.

    Raises:
        ValueError: an id lies outside the codebook, or the images are too small for SSIM.
    """
    ratios, similarities, usage = Mean.empty(), Mean.empty(), CodeUsage.empty(codebook_size)
    for (batch,), mask in padded_batches((images,), batch_size):
        originals = jnp.asarray(to_unit_range(batch))
        ids = tokenize(np.asarray(originals))
        restored = jnp.clip(jnp.asarray(detokenize(ids), jnp.float32), -1, 1)
        ratio, similarity = _compare(originals, restored)
        ratios = ratios.merge(Mean.from_values(ratio, mask))
        similarities = similarities.merge(Mean.from_values(similarity, mask))
        usage = usage.merge(CodeUsage.from_ids(ids, codebook_size, mask))
    return Reconstruction(ratios.compute(), similarities.compute(), *usage.compute())


def reconstruct(
    tokenize: Callable[[np.ndarray], AnyArray],
    detokenize: Callable[[AnyArray], AnyArray],
    images: Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"],
    batch_size: int,
) -> Float[np.ndarray, "b h w 3"]:
    """Returns the reconstructions, float32, clipped to [-1, 1]; arguments as above."""

    def run(batch):
        return np.clip(np.asarray(detokenize(tokenize(to_unit_range(batch))), np.float32), -1, 1)

    return map_batches(run, (images,), batch_size)


@jax.jit
def _compare(originals, restored):
    return psnr(originals, restored), ssim(originals, restored)
