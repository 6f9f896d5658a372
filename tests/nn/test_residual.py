"""The residual quantiser against its plain form with all distances at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.quantisers import ResidualQuantiser

Z, C, DEPTH = 20, 6, 3


def drawn(is_shared, has_padding_row, b=2, n=5):
    quantiser = ResidualQuantiser(Z, C, DEPTH, is_shared, has_padding_row)
    keys = jax.random.split(jax.random.key(0))
    latents = jax.random.normal(keys[0], (b, n, C))
    params = quantiser.init(keys[1], latents, method="train")["params"]
    # Fresh codes are tiny: every remainder would be the latent itself. The padding row stays 0,
    # where a search that reached it would choose it for the last remainders.
    params = jax.tree.map(lambda x: x.at[..., :Z, :].multiply(Z), params)
    return quantiser, params, latents


def books_of(params):
    """[q, z, c], one codebook for each depth."""
    if "codebook" in params:
        books = np.asarray(params["codebook"])
        return np.broadcast_to(books, (DEPTH, Z, C))
    books = np.stack([params[f"padded_codebook_{i}"] for i in range(len(params))])
    return np.broadcast_to(books[:, :Z], (DEPTH, Z, C))


def plain(latents, books):
    """Ids [b, n, q], and what is left before each depth and after the last [q + 1, b, n, c]."""
    left, ids = [np.asarray(latents)], []
    for book in books:
        distances = ((left[-1][..., None, :] - book) ** 2).sum(-1)  # [b, n, z]
        ids.append(distances.argmin(-1))
        left.append(left[-1] - book[ids[-1]])
    return np.stack(ids, -1), np.stack(left)


LAYOUTS = [(True, False), (False, False), (True, True), (False, True)]


@pytest.mark.parametrize(("is_shared", "has_padding_row"), LAYOUTS)
def test_ids_and_sums_equal_the_plain_ones(is_shared, has_padding_row):
    quantiser, params, latents = drawn(is_shared, has_padding_row)
    ids, left = plain(latents, books_of(params))
    assert len(np.unique(ids)) > Z // 2
    bound = quantiser.bind({"params": params})
    np.testing.assert_array_equal(bound.encode(latents), ids)
    assert bound.encode(latents).dtype == jnp.int32
    np.testing.assert_allclose(bound.lookup(jnp.asarray(ids)), left[0] - left[-1], atol=1e-6)
    out = bound.train(latents)
    np.testing.assert_array_equal(out.ids, ids)
    np.testing.assert_allclose(out.vectors, left[0] - left[-1], atol=1e-6)
    losses = np.mean(left[1:] ** 2, axis=(0, 2, 3))
    for name in ("codebook", "commitment"):
        np.testing.assert_allclose(bound.row_losses(out)[name], losses, rtol=1e-5)
    compared = left[:-1].reshape(1 if is_shared else DEPTH, -1, C)
    np.testing.assert_allclose(bound.compared(latents, out.ids), compared, atol=1e-6)
    assert bound.between_rows(latents) == {}


@pytest.mark.parametrize(("is_shared", "has_padding_row"), LAYOUTS)
def test_codes_are_pulled_to_their_remainders_and_latents_to_the_sums(is_shared, has_padding_row):
    quantiser, params, latents = drawn(is_shared, has_padding_row)
    ids, left = plain(latents, books_of(params))

    def loss(params, latents, name):
        bound = quantiser.bind({"params": params})
        return bound.row_losses(bound.train(latents))[name].mean()

    of_codes, of_latents = jax.grad(loss, (0, 1))(params, latents, "codebook")
    assert not np.any(of_latents)
    scale = 2 / (DEPTH * latents.size)
    expected = np.zeros((DEPTH, Z, C))
    for i in range(DEPTH):
        np.add.at(expected[i], ids[..., i], -scale * left[i + 1])
    if is_shared:
        expected = expected.sum(0, keepdims=True)
    leaves = [np.asarray(x).reshape(-1, x.shape[-2], C) for x in jax.tree.leaves(of_codes)]
    got = np.concatenate(leaves)
    np.testing.assert_allclose(got[:, :Z], expected, atol=1e-6)
    assert not np.any(got[:, Z:])
    of_codes, of_latents = jax.grad(loss, (0, 1))(params, latents, "commitment")
    assert not any(np.any(x) for x in jax.tree.leaves(of_codes))
    np.testing.assert_allclose(of_latents, scale * left[1:].sum(0), atol=1e-6)


def test_gradients_pass_straight_to_the_latents():
    quantiser, params, latents = drawn(True, False)
    weights = jax.random.normal(jax.random.key(1), latents.shape)

    def total(latents, method):
        out = quantiser.apply({"params": params}, latents, method=method)
        return jnp.sum(weights * (out if method == "encode" else out.vectors))

    np.testing.assert_allclose(jax.grad(total)(latents, "train"), weights, atol=1e-6)


@pytest.mark.parametrize(("is_shared", "has_padding_row"), LAYOUTS)
def test_ids_outside_the_codebook_give_nan_and_of_another_depth_an_error(
    is_shared, has_padding_row
):
    quantiser, params, _ = drawn(is_shared, has_padding_row)
    bound = quantiser.bind({"params": params})
    for wrong in (-1, Z, Z + 1):
        ids = jnp.zeros((1, 2, DEPTH), jnp.int32).at[0, 0, 1].set(wrong)
        vectors = bound.lookup(ids)
        assert np.isnan(vectors[0, 0]).all()
        assert np.isfinite(vectors[0, 1]).all()
    with pytest.raises(ValueError, match=r"expected ids \[b, n, 3\], .* got \[1, 2, 4\]"):
        bound.lookup(jnp.zeros((1, 2, 4), jnp.int32))


def test_a_depth_of_one_is_refused():
    with pytest.raises(ValueError, match="expected a depth of at least 2"):
        ResidualQuantiser(Z, C, 1).init(jax.random.key(0), jnp.zeros((1, 1, C)), method="train")


def test_no_matrix_of_all_distances_is_held():
    """Training with its losses: the matrix would take 256 MiB, everything else takes 10."""
    n, z, c = 8192, 8192, 8
    quantiser = ResidualQuantiser(z, c, 4)

    def loss(params, latents):
        bound = quantiser.bind({"params": params})
        out = bound.train(latents)
        losses = bound.row_losses(out)
        return losses["codebook"].sum() + losses["commitment"].sum() + out.vectors.sum()

    params = {"codebook": jax.ShapeDtypeStruct((z, c), jnp.float32)}
    latents = jax.ShapeDtypeStruct((8, n // 8, c), jnp.float32)
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(params, latents).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 32 * 2**20
