"""Nearest code: which row of a codebook is closest to each vector, or most alike.

argmin_z |v - e_z|^2 = argmax_z (2 v . e_z - |e_z|^2); by the inner product, argmax_z v . e_z. The
lowest index wins a tie.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.ops.nearest_blocked import (
    METRICS,
    penalty_of,
    scores_of,
    search_by_products,
    search_by_screening,
    search_in_blocks,
    search_on_cpu,
    squares_of,
    varying_as,
)
from toklip_jax.ops.nearest_pallas import search_on_gpu, search_on_tpu


def nearest_code(
    vectors: Float[Array, "n c"],
    codebook: Float[Array, "z c"],
    implementation: str | None = None,
    metric: str = METRICS[0],
) -> Int[Array, " n"]:
    """Returns the index of the nearest row of `codebook` for each vector, int32.

    Distances are float32 from products of float32 whatever the inputs' type, so that ids do not
    depend on the compute type; equal scores go to the lowest index. Only the plain implementation
    holds the [n, z] scores: the others take less than 16 MiB beside arguments and result, for any
    n. (But the kernels copy codebooks of up to `NARROW` numbers a code, transposed, and XLA on CPU
    casts bfloat16 whole.) But for the plain one, implementations sum up to `NARROW` numbers one by
    one, in the same order; libraries sum in their own, and platforms differ in whether a product is
    rounded before it is added. So where distances are equal but for float32's last digits, ids may
    differ between platforms, and from the plain search's.
    No gradient passes.

    Args:
        vectors: finite; one with a NaN gets id 0, as `argmax` has it.
        codebook: finite.
        implementation: one of `IMPLEMENTATIONS`; by default the one for the platform that this is
            lowered for: the Pallas kernels on TPUs and on NVIDIA's GPUs (Ampere and later, as XLA's
            Triton has it; codes of more than `NARROW` numbers by `products` there), `blocked`
            elsewhere, which is `screening` for many wide codes where the processor multiplies
            bfloat16. A kernel runs interpreted where its platform is not.
        metric: "euclidean", or "inner_product" for the row of the greatest inner product.

    Raises:
        ValueError: an unknown implementation or metric, no codes, or widths that differ.
    """
    if vectors.shape[1:] != codebook.shape[1:] or not len(codebook):
        raise UserError(
            f"expected vectors [n, c] and at least one code [z, c], got {vectors.shape} and "
            f"{codebook.shape}"
        )
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"expected an implementation of {sorted(IMPLEMENTATIONS)}, got {implementation!r}"
        )
    if metric not in METRICS:
        raise UserError(f"expected a metric of {METRICS}, got {metric!r}")
    vectors, codebook = jax.lax.stop_gradient((vectors, codebook))
    codebook = varying_as(codebook, vectors)
    if not len(vectors):
        return jnp.zeros(0, jnp.int32)
    if implementation is not None:
        return IMPLEMENTATIONS[implementation](vectors, codebook, metric)
    return jax.lax.platform_dependent(
        vectors,
        codebook,
        tpu=functools.partial(search_on_tpu, metric=metric),
        cuda=functools.partial(search_on_gpu, metric=metric),
        default=functools.partial(search_on_cpu, metric=metric),
    )


def nearest_code_reference(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"], metric: str = METRICS[0]
) -> Int[Array, " n"]:
    """The same in its shortest form, with all [n, z] scores at once."""
    vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
    scores = scores_of(vectors, codebook, penalty_of(codebook, metric))
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def squared_distances(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"]
) -> Float[Array, "n z"]:
    """Returns |v - e|^2 of every vector and code, float32, differentiable."""
    vectors, codebook = vectors.astype(jnp.float32), codebook.astype(jnp.float32)
    scores = scores_of(vectors, codebook, squares_of(codebook))
    return jnp.sum(vectors**2, axis=-1, keepdims=True) - scores


def _interpreted_elsewhere(kernel, platform):
    def search(vectors, codebook, metric=METRICS[0]):
        compiled = functools.partial(kernel, metric=metric)
        interpreted = functools.partial(compiled, interpret=True)
        return jax.lax.platform_dependent(
            vectors, codebook, default=interpreted, **{platform: compiled}
        )

    return search


IMPLEMENTATIONS = {
    "plain": nearest_code_reference,
    "blocked": search_in_blocks,
    "products": search_by_products,
    "screening": search_by_screening,
    "pallas_tpu": _interpreted_elsewhere(search_on_tpu, "tpu"),
    "pallas_gpu": _interpreted_elsewhere(search_on_gpu, "cuda"),
}
