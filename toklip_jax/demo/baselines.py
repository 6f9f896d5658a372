"""Baselines without learning: chance, and the nearest picture by pixels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from toklip_jax.evaluation.batches import map_batches
from toklip_jax.metrics import Estimate
from toklip_jax.ops.pixels import to_unit_range

PIXEL_SIDE = 16
BLOCK = 256  # pictures compared at a time


def chance_recall(num_keys: int, num_positives: Int[np.ndarray, " q"], k: int) -> Estimate:
    """Returns the expected recall@k of a random order, exact, the mean over queries.

    1 - C(n - m, k) / C(n, k) for m right keys among n.
    """
    misses = np.ones(len(num_positives))
    for i in range(min(k, num_keys)):
        misses *= np.maximum(num_keys - num_positives - i, 0) / (num_keys - i)
    return Estimate(float(np.mean(1 - misses)))


def pixel_features(
    images: Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"], side: int = PIXEL_SIDE
) -> Float[np.ndarray, "b d"]:
    """Returns images shrunk to side x side (antialiased bilinear) as vectors, float32."""

    @jax.jit
    def shrink(batch):
        small = jax.image.resize(batch, (len(batch), side, side, 3), "linear", antialias=True)
        return small.reshape(len(batch), -1)

    return map_batches(lambda batch: shrink(to_unit_range(batch)), (images,), BLOCK)


def neighbour_scores(
    query_features: Float[np.ndarray, "q d"],
    reference_features: Float[np.ndarray, "s d"],
    reference_labels: Int[np.ndarray, " s"],
    num_labels: int,
) -> Float[np.ndarray, "q c"]:
    """Returns, per query and label, minus the squared distance to the label's nearest reference.

    Each row's maximum is the nearest neighbour's label. A label without references gets -inf.
    """
    references, labels = jnp.asarray(reference_features), jnp.asarray(reference_labels)
    squares = jnp.sum(references**2, axis=-1)

    @jax.jit
    def block(queries):
        products = jnp.matmul(queries, references.T, precision=jax.lax.Precision.HIGHEST)
        distances = jnp.sum(queries**2, axis=-1, keepdims=True) + squares - 2 * products
        return jax.ops.segment_max(-distances.T, labels, num_labels).T

    return map_batches(block, (query_features,), BLOCK)
