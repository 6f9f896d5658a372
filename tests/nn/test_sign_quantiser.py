"""Sign codes: ids, vectors and gradients, and the entropy loss against its plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.losses.sign_entropy import sign_entropies, sign_entropy
from toklip_jax.losses.soft_assignment import LOG_EPS, TEMPERATURE
from toklip_jax.nn.quantisers import SignQuantiser, check_bits

pytestmark = pytest.mark.usefixtures("highest_precision")

BITS = 6
SPREAD = 2 * TEMPERATURE  # of latents that are unsure of some signs
LIMIT = 16 * 2**20  # bytes beside arguments and results


def call(method, *inputs, bits=BITS):
    return jax.jit(lambda *x: SignQuantiser(bits).apply({}, *x, method=method))(*inputs)


def latents_of(b, n, bits, scale=SPREAD):
    return scale * jax.random.normal(jax.random.key(b + n + bits), (b, n, bits))


def test_the_first_number_is_the_lowest_bit_and_zero_counts_as_negative():
    latents = jnp.array([[[1, -1, -1.0], [-1, -1, 1], [0, 2, -0.0], [-3, -2, -1]]])
    np.testing.assert_array_equal(call("encode", latents, bits=3), [[1, 4, 2, 0]])
    vectors = call("lookup", jnp.array([[1, 4, 2, 0]]), bits=3)
    np.testing.assert_array_equal(vectors, [[[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [-1] * 3]])


@pytest.mark.parametrize("bits", [1, 10, 30])
def test_every_id_stands_for_the_vector_it_is_of(bits):
    ids = jnp.arange(2 ** min(bits, 10), dtype=jnp.int32)[None] << max(bits - 10, 0)
    vectors = call("lookup", ids, bits=bits)
    assert vectors.dtype == jnp.float32
    got = call("encode", vectors, bits=bits)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32])
def test_ids_outside_the_codes_give_nan(dtype):
    ids = jnp.array([[-1, 0, 2**BITS - 1, 2**BITS]], dtype)
    is_nan = np.isnan(call("lookup", ids))
    np.testing.assert_array_equal(is_nan.any(-1), [[True, False, False, True]])
    np.testing.assert_array_equal(is_nan.all(-1), is_nan.any(-1))


def test_gradients_of_the_vectors_go_straight_to_the_latents():
    latents, weights = latents_of(2, 5, BITS, 1.0), latents_of(2, 5, BITS + 1, 1.0)[..., :BITS]

    def weighted(latents):
        return jnp.sum(weights * SignQuantiser(BITS).apply({}, latents, method="train").vectors)

    np.testing.assert_array_equal(jax.jit(jax.grad(weighted))(latents), weights)
    quantised = call("train", latents)
    np.testing.assert_allclose(quantised.vectors, jnp.sign(latents), atol=1e-6)
    np.testing.assert_array_equal(quantised.ids, call("encode", latents))


def test_commitment_is_the_only_loss_of_a_row():
    latents = latents_of(3, 4, BITS, 1.0)
    losses = call("row_losses", call("train", latents))
    want = np.mean((np.asarray(latents) - np.sign(latents)) ** 2, axis=(1, 2))
    assert set(losses) == {"commitment"}
    np.testing.assert_allclose(losses["commitment"], want, rtol=1e-6)


def plain(latents, mask=None):
    """E[H(p)] and H(E[p]) from the [n, 2^c] probabilities."""
    b, n, bits = latents.shape
    weights = jnp.repeat(jnp.ones(b) if mask is None else mask.astype(jnp.float32), n)
    weights = weights / jnp.sum(weights)
    codes = 2.0 * ((jnp.arange(2**bits)[:, None] >> jnp.arange(bits)) & 1) - 1
    distances = jnp.sum((latents.reshape(-1, 1, bits) - codes) ** 2, axis=-1)
    log_p = jax.nn.log_softmax(-distances / TEMPERATURE, axis=-1)
    p = jnp.exp(log_p)
    mean = weights @ p
    return -weights @ jnp.sum(p * log_p, axis=-1), -jnp.sum(mean * jnp.log(mean + LOG_EPS))


@pytest.mark.parametrize("block_bits", [0, 1, 4, 5, 14])
@pytest.mark.parametrize("mask", [None, [True, False, True]])
def test_entropies_equal_the_plain_form_in_value_and_gradient(block_bits, mask):
    latents = latents_of(3, 7, BITS)
    mask = mask and jnp.array(mask)
    for part in range(2):

        def of_blocks(x, part=part):
            return sign_entropies(x, mask, block_bits)[part]

        def of_all(x, part=part):
            return plain(x, mask)[part]

        got, gradient = jax.jit(jax.value_and_grad(of_blocks))(latents)
        want, wanted_gradient = jax.jit(jax.value_and_grad(of_all))(latents)
        assert want > 0.5
        np.testing.assert_allclose(got, want, rtol=1e-5)
        largest = float(jnp.abs(wanted_gradient).max())
        assert largest > 0.01
        # Distances divided by 0.01 lose digits in the plain form: up to 1e-5 of a probability.
        np.testing.assert_allclose(gradient, wanted_gradient, atol=5e-5 * largest)


def test_entropy_is_the_loss_that_a_batch_reports():
    latents = latents_of(2, 5, BITS)
    mask = jnp.array([False, True])
    between = call("between_rows", latents, mask)
    of_latents, of_codebook = jax.jit(plain)(latents, mask)
    assert set(between) == {"entropy"}
    np.testing.assert_allclose(between["entropy"], of_latents - of_codebook, rtol=1e-4)


def test_entropy_is_finite_where_latents_are_large_or_zero():
    latents = jnp.array([[[1e4, -1e4, 0.0], [0, 0, 0], [-50, 1e-20, 3]]])
    value, gradient = jax.jit(jax.value_and_grad(sign_entropy))(latents)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_entropy_of_262144_codes_holds_no_matrix_of_them():
    latents = jax.ShapeDtypeStruct((2, 256, 18), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(sign_entropy)).lower(latents).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < LIMIT  # the matrix has 512 MiB


@pytest.mark.parametrize("bits", [0, 31])
def test_a_number_of_bits_that_no_id_can_have_is_refused(bits):
    with pytest.raises(ValueError, match=f"expected sign codes of 1 to 30 bits, got {bits}"):
        check_bits(bits)
