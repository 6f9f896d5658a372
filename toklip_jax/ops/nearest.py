"""Nearest code: which row of a codebook is closest to each vector.

argmin_z |v - e_z|^2 = argmax_z (2 v . e_z - |e_z|^2); the lowest index wins a tie.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GROUP = 128  # codes whose maximum is taken before the arg max; the fastest of 64, 128, 256 on CPU
ROWS = 64  # vectors scored at a time: 64 x 16,384 scores are 4 MiB, and stay in cache


def nearest_code(vectors: Float[Array, "n c"], codebook: Float[Array, "z c"]) -> Int[Array, " n"]:
    """Returns the index of the nearest row of `codebook` for each vector, int32.

    Distances are float32 at highest matmul precision whatever the inputs' type, so that ids do not
    depend on the compute type. The [n, z] scores are never held whole: blocks of vectors are scored
    in turn, the maximum of every group of codes is found first and the arg max only inside the
    winning group, which CPUs do several times faster than an arg max over all codes.
    """
    vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
    n, z = len(vectors), len(codebook)
    group = min(GROUP, z)
    rows = min(ROWS, n)
    # Padded codes can never win: their score is -inf, and equal scores go to the lowest index.
    codes = jnp.pad(codebook, ((0, -z % group), (0, 0)))
    penalty = jnp.pad(jnp.sum(codebook**2, axis=-1), (0, -z % group), constant_values=jnp.inf)
    blocks = jnp.pad(vectors, ((0, -n % rows), (0, 0))).reshape(-1, rows, vectors.shape[-1])

    def search(block):
        scores = _scores(block, codes, penalty).reshape(rows, -1, group)
        winner = jnp.argmax(jnp.max(scores, axis=-1), axis=-1)
        inside = jnp.take_along_axis(scores, winner[:, None, None], axis=1)[:, 0]
        return winner * group + jnp.argmax(inside, axis=-1)

    return jax.lax.map(search, blocks).reshape(-1)[:n].astype(jnp.int32)


def nearest_code_reference(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"]
) -> Int[Array, " n"]:
    """The same in its shortest form, with all [n, z] scores at once."""
    vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
    scores = _scores(vectors, codebook, jnp.sum(codebook**2, axis=-1))
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def squared_distances(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"]
) -> Float[Array, "n z"]:
    """Returns |v - e|^2 of every vector and code, float32, differentiable."""
    vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
    scores = _scores(vectors, codebook, jnp.sum(codebook**2, axis=-1))
    return jnp.sum(vectors**2, axis=-1, keepdims=True) - scores


def _scores(vectors, codes, penalty):
    return 2 * jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST) - penalty
