"""Normalisation of vectors."""

import jax.numpy as jnp
from jaxtyping import Array, Float

EPS = 1e-12  # torch.nn.functional.normalize's default


def l2_normalize(vectors: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Returns v / max(|v|, 1e-12) over the last axis, float32; the gradient at 0 is finite."""
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(square, EPS * EPS))
