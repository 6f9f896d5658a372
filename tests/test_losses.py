import jax
import jax.numpy as jnp
import numpy as np
import optax

from toklip_jax.losses import plain as losses
from toklip_jax.losses.quantisation import codebook_losses, commitment_losses
from toklip_jax.ops.normalize import l2_normalize


def features(seed, shape=(6, 16)):
    return l2_normalize(jax.random.normal(jax.random.key(seed), shape))


def test_softmax_loss_is_the_mean_of_two_cross_entropies():
    image, text, scale = features(0), features(1), jnp.float32(2.0)
    logits = jnp.exp(scale) * image @ text.T
    labels = jnp.arange(6)
    want = sum(
        optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()
        for x in (logits, logits.T)
    )
    got = losses.softmax_contrastive_loss(image, text, scale)
    np.testing.assert_allclose(got, want / 2, rtol=1e-6)


def test_sigmoid_loss_is_binary_cross_entropy_summed_over_texts():
    image, text = features(0), features(1)
    logits = jnp.exp(2.0) * image @ text.T - 3.0
    want = optax.sigmoid_binary_cross_entropy(logits, jnp.eye(6)).sum() / 6
    got = losses.sigmoid_contrastive_loss(image, text, jnp.float32(2.0), jnp.float32(-3.0))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_sigmoid_loss_takes_further_matches():
    image, text = features(0), features(1)
    match = jnp.eye(6).at[0, 3].set(1)
    args = image, text, jnp.float32(2.0), jnp.float32(-3.0)
    logit = jnp.exp(2.0) * image[0] @ text[3] - 3.0
    change = losses.sigmoid_contrastive_loss(*args, match) - losses.sigmoid_contrastive_loss(*args)
    np.testing.assert_allclose(change, -logit / 6, rtol=1e-5)


def test_distillation_moves_the_student_only():
    student, teacher = features(0), features(1)

    def mean(student, teacher):
        return jnp.mean(losses.distillation_losses(student, teacher))

    grads = jax.grad(mean, argnums=(0, 1))(student, teacher)
    np.testing.assert_allclose(grads[0], 2 * (student - teacher) / student.size, rtol=1e-6)
    assert (grads[1] == 0).all()


def test_codebook_loss_moves_codes_and_commitment_moves_latents():
    latents, codes = features(0), features(1)
    for losses_of, still in ((codebook_losses, 0), (commitment_losses, 1)):
        grads = jax.grad(lambda *xs, f=losses_of: f(*xs).sum(), argnums=(0, 1))(latents, codes)
        assert (grads[still] == 0).all()
        assert (grads[1 - still] != 0).any()
