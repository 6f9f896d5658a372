"""A tokenizer without learning, to compare others with: k-means on patches of pixels."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from toklip_jax.metrics import AnyArray, to_unit_range
from toklip_jax.ops.nearest import nearest_code


class PatchCodebook(NamedTuple):
    """A tokenizer without learning: each patch becomes its nearest of k-means' centres."""

    codebook: Float[Array, "z d"]
    patch_size: int

    def tokenize(self, images: Float[AnyArray, "b h w 3"]) -> Int[Array, "b n"]:
        """Returns the ids of the patches, row-major, int32."""
        patches = _patches(jnp.asarray(images), self.patch_size)  # [b, n, d]
        ids = _nearest(patches.reshape(-1, patches.shape[-1]), self.codebook)
        return ids.reshape(patches.shape[:2])

    def detokenize(self, ids: Int[AnyArray, "b n"]) -> Float[Array, "b h w 3"]:
        """Returns square images put together from the centres."""
        b, n = ids.shape
        side, p = math.isqrt(n), self.patch_size
        patches = self.codebook[ids].reshape(b, side, side, p, p, 3)
        return patches.swapaxes(2, 3).reshape(b, side * p, side * p, 3)


def fit_patch_codebook(
    images: Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"],
    patch_size: int = 8,
    codebook_size: int = 1024,
    *,
    max_patches: int = 100_000,
    steps: int = 20,
    seed: int = 0,
) -> PatchCodebook:
    """Fits `codebook_size` centres to the patches of `images` by k-means.

    Args:
        images: uint8, or float in [-1, 1].
        patch_size: pixels a side; divides the images' sides.
        codebook_size: number of centres.
        max_patches: how many patches are drawn (without replacement) to fit on.
        steps: Lloyd steps.
        seed: of the draw and of the start.
    """
    random = np.random.default_rng(seed)
    per_image = images.shape[1] * images.shape[2] // patch_size**2
    # Whole pictures first, so that a large set is not cut into patches in full.
    chosen = random.permutation(len(images))[: 4 * math.ceil(max_patches / per_image)]
    patches = _patches(jnp.asarray(to_unit_range(images[np.sort(chosen)])), patch_size)
    patches = np.asarray(patches).reshape(-1, patches.shape[-1])
    points = patches[random.permutation(len(patches))[:max_patches]]
    return PatchCodebook(kmeans(jnp.asarray(points), codebook_size, steps), patch_size)


@functools.partial(jax.jit, static_argnames=("num_codes", "steps"))
def kmeans(
    points: Float[Array, "n d"], num_codes: int, steps: int
) -> Float[Array, "{num_codes} d"]:
    """Lloyd's algorithm from the first `num_codes` points (shuffle them before).

    A centre that no point chose moves to one of the points worst served, so none stays idle while
    there are distinct points.
    """

    def step(_, centres):
        ids = nearest_code(points, centres)
        counts = jax.ops.segment_sum(jnp.ones(len(points)), ids, num_codes)
        sums = jax.ops.segment_sum(points, ids, num_codes)
        errors = jnp.sum((points - centres[ids]) ** 2, axis=-1)
        worst = points[jax.lax.top_k(errors, num_codes)[1]]
        is_idle = (counts == 0)[:, None]
        turn = jnp.cumsum(is_idle[:, 0]) - 1  # the i-th idle centre takes the i-th worst point
        return jnp.where(is_idle, worst[turn], sums / jnp.maximum(counts, 1)[:, None])

    return jax.lax.fori_loop(0, steps, step, points[:num_codes])


_nearest = jax.jit(nearest_code)


def _patches(images, p):
    b, h, w, c = images.shape
    grid = images.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)
    return grid.reshape(b, (h // p) * (w // p), p * p * c)  # [b, n, d]
