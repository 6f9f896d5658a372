"""Training losses, each a pure function of arrays, computed in float32.

Features are normalised by the caller; means are over the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.ops.nearest import squared_distances

ENTROPY_TEMPERATURE = 0.01  # of the soft assignment in the entropy loss (LlamaGen, VQGAN-LC)
LOG_EPS = 1e-5  # keeps log of an unused code's mean probability finite, as LlamaGen has it


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


def distillation_loss(
    student: Float[Array, "*b d"], teacher: Float[Array, "*b d"]
) -> Float[Array, ""]:
    """Mean squared error over all entries of normalised features; no gradient to the teacher.

    TokLIP weighs it 1000 for pooled features and 10 for tokens (paper, section 3.3).
    """
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    return jnp.mean((student.astype(jnp.float32) - teacher) ** 2)


def codebook_loss(
    latents: Float[Array, "*b c"], code_vectors: Float[Array, "*b c"]
) -> Float[Array, ""]:
    """Mean |code - sg(latent)|^2 per entry: pulls codes to latents (VQ-VAE)."""
    return jnp.mean((code_vectors - jax.lax.stop_gradient(latents)) ** 2)


def commitment_loss(
    latents: Float[Array, "*b c"], code_vectors: Float[Array, "*b c"]
) -> Float[Array, ""]:
    """Mean |sg(code) - latent|^2 per entry: pulls latents to codes. LlamaGen weighs it 0.25."""
    return jnp.mean((jax.lax.stop_gradient(code_vectors) - latents) ** 2)


def entropy_loss(latents: Float[Array, "*b c"], codebook: Float[Array, "z c"]) -> Float[Array, ""]:
    """E[H(p)] - H(E[p]) of soft assignments p = softmax(-|v - e|^2 / 0.01), nats.

    Low when each latent is sure of its code and all codes are used alike. The epsilons are
    LlamaGen's. It builds all [n, z] distances: leave it out (weight 0) at real sizes.
    """
    flat = latents.reshape(-1, latents.shape[-1])
    affinity = -squared_distances(flat, codebook) / ENTROPY_TEMPERATURE
    probabilities = jax.nn.softmax(affinity, axis=-1)
    log_probabilities = jax.nn.log_softmax(affinity + LOG_EPS, axis=-1)
    mean = jnp.mean(probabilities, axis=0)
    entropy_of_mean = -jnp.sum(mean * jnp.log(mean + LOG_EPS))
    mean_entropy = -jnp.mean(jnp.sum(probabilities * log_probabilities, axis=-1))
    return mean_entropy - entropy_of_mean


def _inner_products(x, y):
    return x.astype(jnp.float32) @ y.astype(jnp.float32).T
