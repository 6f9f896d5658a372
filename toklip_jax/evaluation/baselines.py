"""A tokenizer that learns nothing, to compare others with: k-means on patches of pixels."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from toklip_jax.core.errors import UserError
from toklip_jax.metrics import AnyArray
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.pixels import to_unit_range


class PatchCodebook(NamedTuple):
    """A tokenizer without learning: each patch becomes its nearest of k-means' centres.

    Attributes:
        codebook: the centres, float32.
        patch: pixels along each side of a patch.
        grid: patches along each side of an image, or of a video.
    """

    codebook: Float[Array, "z d"]
    patch: tuple[int, ...]
    grid: tuple[int, ...]

    def tokenize(self, images: Float[AnyArray, "b *size 3"]) -> Int[Array, "b n"]:
        """Returns the ids of the patches, row-major, int32."""
        patches = _patches(jnp.asarray(images), self.patch)  # [b, n, d]
        ids = _nearest(patches.reshape(-1, patches.shape[-1]), self.codebook)
        return ids.reshape(patches.shape[:2])

    def detokenize(self, ids: Int[AnyArray, "b n"]) -> Float[Array, "b *size 3"]:
        """Returns images put together from the centres."""
        sides = len(self.grid)
        patches = self.codebook[ids].reshape(len(ids), *self.grid, *self.patch, 3)
        pairs = [axis for side in range(1, sides + 1) for axis in (side, side + sides)]
        patches = patches.transpose(0, *pairs, 2 * sides + 1)
        size = (g * p for g, p in zip(self.grid, self.patch, strict=True))
        return patches.reshape(len(ids), *size, 3)


def fit_patch_codebook(
    images: Float[np.ndarray, "b *size 3"] | UInt8[np.ndarray, "b *size 3"],
    patch_size: int | tuple[int, ...] = 8,
    codebook_size: int = 1024,
    *,
    max_patches: int = 100_000,
    steps: int = 20,
    seed: int = 0,
) -> PatchCodebook:
    """Fits `codebook_size` centres to the patches of `images` by k-means.

    Args:
        images: uint8, or float in [-1, 1]; [b, h, w, 3], or videos [b, t, h, w, 3].
        patch_size: pixels along a side, or along each of them.
        codebook_size: number of centres.
        max_patches: how many patches are drawn (without replacement) to fit on.
        steps: the number of steps of Lloyd's algorithm.
        seed: the seed of the draw and of the start.

    Raises:
        ValueError: the patches do not divide the images, or there are fewer patches than centres.
    """
    size = images.shape[1:-1]
    patch = (patch_size,) * len(size) if isinstance(patch_size, int) else tuple(patch_size)
    if len(patch) != len(size) or any(s % p for s, p in zip(size, patch, strict=True)):
        raise UserError(f"expected patches that divide images of {size}, got {patch}")
    random = np.random.default_rng(seed)
    per_image = math.prod(size) // math.prod(patch)
    # Whole images first, so that not every image of a large set is cut into patches.
    chosen = random.permutation(len(images))[: 4 * math.ceil(max_patches / per_image)]
    patches = _patches(jnp.asarray(to_unit_range(images[np.sort(chosen)])), patch)
    patches = np.asarray(patches).reshape(-1, patches.shape[-1])
    points = patches[random.permutation(len(patches))[:max_patches]]
    if len(points) < codebook_size:
        raise UserError(
            f"expected at least {codebook_size} patches to fit as many centres, got {len(points)}: "
            f"pass more images"
        )
    grid = tuple(s // p for s, p in zip(size, patch, strict=True))
    return PatchCodebook(kmeans(jnp.asarray(points), codebook_size, steps), patch, grid)


@functools.partial(jax.jit, static_argnames=("num_codes", "steps"))
def kmeans(
    points: Float[Array, "n d"], num_codes: int, steps: int
) -> Float[Array, "{num_codes} d"]:
    """Lloyd's algorithm from the first `num_codes` points (shuffle them before).

    A centre that is nearest to no point moves to one of the points farthest from their centres, so
    none stays unused while there are distinct points.
    """

    def step(_, centres):
        ids = nearest_code(points, centres)
        counts = jax.ops.segment_sum(jnp.ones(len(points)), ids, num_codes)
        sums = jax.ops.segment_sum(points, ids, num_codes)
        errors = jnp.sum((points - centres[ids]) ** 2, axis=-1)
        worst = points[jax.lax.top_k(errors, num_codes)[1]]
        is_unused = (counts == 0)[:, None]
        turn = jnp.cumsum(is_unused[:, 0]) - 1  # the i-th unused centre takes the i-th worst point
        return jnp.where(is_unused, worst[turn], sums / jnp.maximum(counts, 1)[:, None])

    return jax.lax.fori_loop(0, steps, step, points[:num_codes])


_nearest = jax.jit(nearest_code)


def _patches(images, patch):
    """Non-overlapping patches as vectors, row-major."""
    b, *size, c = images.shape
    grid = [side // p for side, p in zip(size, patch, strict=True)]
    cut = images.reshape(b, *(n for pair in zip(grid, patch, strict=True) for n in pair), c)
    sides = len(grid)
    axes = [*range(1, 2 * sides, 2), *range(2, 2 * sides + 1, 2)]  # places, then pixels
    cut = cut.transpose(0, *axes, 2 * sides + 1)
    return cut.reshape(b, math.prod(grid), math.prod(patch) * c)  # [b, n, d]
