"""Several codebooks side by side: each chunk of channels is searched in its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.losses.quantisation import entropy_loss
from toklip_jax.nn.quantisers import SeveralCodebooks

pytestmark = pytest.mark.usefixtures("highest_precision")

COUNT, SIZE, DIM = 3, 20, 4
QUANTISER = SeveralCodebooks(COUNT, SIZE, DIM)


@pytest.fixture(scope="module")
def latents():
    return jax.random.normal(jax.random.key(1), (2, 5, COUNT * DIM))


@pytest.fixture(scope="module")
def codebook():
    """Codes of all lengths: only their directions may count."""
    return jax.random.normal(jax.random.key(2), (COUNT, SIZE, DIM))


def apply(codebook, *inputs, method):
    inputs = jax.tree.map(jnp.asarray, inputs)
    return QUANTISER.apply({"params": {"codebook": codebook}}, *inputs, method=method)


def chunks_of(latents):
    return np.asarray(latents).reshape(*latents.shape[:-1], COUNT, DIM)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_each_chunk_takes_the_code_of_its_codebook_with_the_greatest_cosine(latents, codebook):
    ids = apply(codebook, latents, method="encode")
    assert (ids.shape, ids.dtype) == ((2, 5, COUNT), jnp.int32)
    cosines = np.einsum("bnqe,qze->bnqz", unit(chunks_of(latents)), unit(np.asarray(codebook)))
    np.testing.assert_array_equal(ids, cosines.argmax(-1))
    assert any(len(np.unique(ids[..., i])) > 1 for i in range(COUNT))


def test_an_equal_code_with_a_higher_id_is_not_taken(latents, codebook):
    ids = apply(codebook, latents, method="encode")
    first = int(ids[0, 0, 1])
    twice = codebook.at[1, SIZE - 1].set(3 * codebook[1, first])
    assert first < SIZE - 1
    assert apply(twice, latents, method="encode")[0, 0, 1] == first


def test_codes_are_looked_up_at_unit_length_each_in_its_own_codebook(codebook):
    ids = np.random.default_rng(0).integers(0, SIZE, (2, 5, COUNT))
    vectors = chunks_of(apply(codebook, ids, method="lookup"))
    for i in range(COUNT):
        want = unit(np.asarray(codebook[i]))[ids[..., i]]
        np.testing.assert_allclose(vectors[:, :, i], want, atol=1e-6)


def test_ids_outside_a_codebook_are_nan_in_their_chunk_and_another_depth_is_refused(codebook):
    ids = np.zeros((1, 2, COUNT), np.int32)
    ids[0, 0, 1], ids[0, 1, 2] = SIZE, -1
    vectors = chunks_of(apply(codebook, ids, method="lookup"))
    want = np.zeros((1, 2, COUNT), bool)
    want[0, 0, 1] = want[0, 1, 2] = True
    np.testing.assert_array_equal(np.isnan(vectors).all(-1), want)
    np.testing.assert_array_equal(np.isnan(vectors).any(-1), want)
    with pytest.raises(ValueError, match=r"expected ids \[b, n, 3\], .* got \[1, 2, 2\]"):
        apply(codebook, ids[..., :2], method="lookup")


def test_training_gives_the_codes_and_its_gradient_goes_straight_to_the_chunks(latents, codebook):
    quantised = apply(codebook, latents, method="train")
    want = apply(codebook, quantised.ids, method="lookup")
    np.testing.assert_allclose(quantised.vectors, want, atol=1e-6)
    np.testing.assert_array_equal(quantised.codes, want)
    np.testing.assert_allclose(chunks_of(quantised.latents), unit(chunks_of(latents)), atol=1e-6)
    weights = jax.random.normal(jax.random.key(3), latents.shape)

    def loss(latents, method):
        vectors = apply(codebook, latents, method=method)
        return jnp.sum(weights * (vectors if method == "normalise" else vectors.vectors))

    straight, plain = (jax.grad(loss)(latents, method) for method in ("train", "normalise"))
    np.testing.assert_allclose(straight, plain, atol=1e-6)


@pytest.mark.parametrize("mask", [None, (True, False)])
def test_the_entropy_is_the_mean_of_those_of_all_codebooks(latents, codebook, mask):
    mask = mask if mask is None else jnp.array(mask)

    def plain(latents, codebook):
        chunks = unit_jax(latents.reshape(2, 5, COUNT, DIM))
        losses = [entropy_loss(chunks[:, :, i], unit_jax(codebook[i]), mask) for i in range(COUNT)]
        return sum(losses) / COUNT

    def blockwise(latents, codebook):
        latents = apply(codebook, latents, method="normalise")
        return apply(codebook, latents, mask, method="between_rows")["entropy"]

    got, want = (
        jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(latents, codebook)
        for function in (blockwise, plain)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
    for a, b in zip(got[1], want[1], strict=True):
        # A temperature of 0.01 makes float32 noise of a distance a hundred times larger.
        np.testing.assert_allclose(a, b, atol=5e-5, rtol=1e-2)
        assert jnp.abs(b).max() > 1e-3


def unit_jax(vectors):
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def test_codes_can_be_replaced_by_what_their_own_codebook_was_compared_with(latents, codebook):
    quantised = apply(codebook, latents, method="train")
    got = apply(codebook, quantised.latents, quantised.ids, method="compared")
    assert got.shape == (COUNT, 10, DIM)
    for i in range(COUNT):
        want = chunks_of(quantised.latents)[:, :, i].reshape(-1, DIM)
        np.testing.assert_array_equal(got[i], want)


def test_fresh_codes_have_unit_length(latents):
    params = QUANTISER.init(jax.random.key(0), latents, method="encode")["params"]
    assert params["codebook"].shape == (COUNT, SIZE, DIM)
    np.testing.assert_allclose(np.linalg.norm(params["codebook"], axis=-1), 1, rtol=1e-5)
