"""Training losses, each a pure function of arrays, computed in float32.

Features are normalised by the caller; means are over the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_contrastive_loss(
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "b d"],
    logit_scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Symmetric InfoNCE over the batch, nats: CLIP's loss, and TokLIP's as released.

    (CE(s x y^T) + CE(s y x^T)) / 2 with s = exp(logit_scale) and the pairs on the diagonal.
    """
    logits = jnp.exp(logit_scale) * _inner_products(image_features, text_features)
    matched = jnp.diagonal(logits)
    over_texts = jax.nn.logsumexp(logits, axis=1) - matched
    over_images = jax.nn.logsumexp(logits, axis=0) - matched
    return (jnp.mean(over_texts) + jnp.mean(over_images)) / 2


def sigmoid_contrastive_loss(
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "b d"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    is_match: Float[Array, "b b"] | None = None,
) -> Float[Array, ""]:
    """SigLIP's loss (arXiv 2303.15343): every pair a yes-or-no question, summed, per image, nats.

    -sum_ij log sigmoid(m_ij (s x_i y_j + bias)) / b with m = 1 for a match and -1 otherwise.

    Args:
        is_match: 1 where text j describes image i; the diagonal unless given.
    """
    logits = jnp.exp(logit_scale) * _inner_products(image_features, text_features) + logit_bias
    match = jnp.eye(len(logits)) if is_match is None else is_match
    return -jnp.sum(jax.nn.log_sigmoid((2 * match - 1) * logits)) / len(logits)


def distillation_losses(
    student: Float[Array, "b *n d"], teacher: Float[Array, "b *n d"]
) -> Float[Array, " b"]:
    """Mean squared error of each row's normalised features; no gradient to the teacher.

    TokLIP weighs its mean 1000 for pooled features and 10 for tokens (paper, section 3.3).
    """
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    error = (student.astype(jnp.float32) - teacher) ** 2
    return jnp.mean(error.reshape(len(error), -1), axis=1)


def cross_entropy(logits: Float[Array, "*b v"], ids: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns -log softmax(logits)[id] of each row, nats, float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def _inner_products(x, y):
    return jnp.matmul(x.astype(jnp.float32), y.astype(jnp.float32).T, precision="highest")
