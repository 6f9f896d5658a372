"""The API inside programs: every method under jax's transformations, and outside them alike."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from toklip_jax.ops.normalize import l2_normalize

ATOL = 1e-5  # sums are ordered by the shape of the batch
IMAGE_ATOL = 1e-4

METHODS = {
    "tokenize": (lambda toklip: toklip.tokenize, "images"),
    "encode": (lambda toklip: toklip.encode, "images"),
    "image_features": (lambda toklip: toklip.image_features, "images"),
    "image_features_of_ids": (lambda toklip: lambda ids: toklip.image_features(ids=ids), "ids"),
    "code_vectors": (lambda toklip: toklip.code_vectors, "ids"),
    "semantic_tokens": (lambda toklip: toklip.semantic_tokens, "ids"),
    "token_features": (lambda toklip: toklip.token_features, "ids"),
    "detokenize": (lambda toklip: toklip.detokenize, "ids"),
    "tokens_from_code_vectors": (lambda toklip: toklip.tokens_from_code_vectors, "codes"),
    "features_from_code_vectors": (lambda toklip: toklip.features_from_code_vectors, "codes"),
    "text_features": (lambda toklip: toklip.text_features, "token_ids"),
}


@pytest.fixture(scope="module")
def toklip(small):
    return small


@pytest.fixture(scope="module")
def arrays(toklip, pictures):
    random = np.random.default_rng(2)
    ids = toklip.tokenize(pictures)
    return {
        "images": jnp.asarray(pictures),
        "ids": ids,
        "codes": toklip.code_vectors(ids),
        "token_ids": jnp.asarray(random.integers(0, 40, (4, 6)), jnp.int32),
    }


@pytest.fixture(scope="module")
def features():
    random = np.random.default_rng(3)
    drawn = (random.normal(size=(n, 16)).astype(np.float32) for n in (4, 3))
    return tuple(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in drawn)


def near(got, want, name):
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=IMAGE_ATOL if name == "detokenize" else ATOL)


@pytest.mark.parametrize("name", METHODS)
def test_jit_vmap_and_shard_map_give_what_the_call_gives(name, toklip, arrays):
    get, kind = METHODS[name]
    method, array = get(toklip), arrays[kind]
    expected = method(array)
    near(jax.jit(method)(array), expected, name)
    each = jax.vmap(method)(array[:, None])
    near(each[:, 0], expected, name)
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    mapped = jax.shard_map(method, mesh=mesh, in_specs=P("rows"), out_specs=P("rows"))
    near(jax.jit(mapped)(array), expected, name)


def test_similarity_is_traced_and_of_the_highest_precision(toklip, features):
    expected = toklip.similarity(*features)
    np.testing.assert_allclose(jax.jit(toklip.similarity)(*features), expected, atol=ATOL)
    text = jax.jit(toklip.similarity).lower(*features).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in text


def test_features_of_another_shape_are_refused(toklip, features):
    with pytest.raises(ValueError, match=r"features \[b, 16\] of floats, got float32 \(4, 8"):
        toklip.similarity(features[0][:, :8], features[1])


def test_code_vectors_lead_where_ids_lead(toklip, arrays):
    codes = arrays["codes"]
    np.testing.assert_array_equal(
        toklip.tokens_from_code_vectors(codes), toklip.semantic_tokens(arrays["ids"])
    )
    np.testing.assert_array_equal(
        toklip.features_from_code_vectors(codes), toklip.image_features(ids=arrays["ids"])
    )
    np.testing.assert_allclose(toklip.encode(arrays["images"]), codes, atol=ATOL)


def test_gradients_pass_from_features_to_pixels_and_code_vectors(toklip, arrays):
    def to_feature(images):
        return toklip.features_from_code_vectors(toklip.encode(images)) @ direction

    direction = jax.random.normal(jax.random.key(0), (16,))
    to_pixels = jax.jit(jax.grad(lambda x: to_feature(x).sum()))
    pixels = to_pixels(arrays["images"] / 255.0)
    assert all(float(jnp.abs(image).max()) > 0 for image in pixels)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(toklip.tokens_from_code_vectors(x) ** 2)))
    step = 1e-2 * jax.random.normal(jax.random.key(1), arrays["codes"].shape)

    def loss(scale):
        return jnp.sum(toklip.tokens_from_code_vectors(arrays["codes"] + scale * step) ** 2)

    slope = jnp.vdot(gradient(arrays["codes"]), step)
    np.testing.assert_allclose((loss(0.5) - loss(-0.5)), slope, rtol=0.02)


def test_gradients_reach_the_parameters(toklip, arrays):
    def by_call(params):
        tokens = toklip.apply(params, arrays["ids"], "image_features")
        return jnp.sum(l2_normalize(tokens)[:, 0])

    def by_object(params):
        return jnp.sum(toklip.with_params(params).image_features(ids=arrays["ids"])[:, 0])

    one, other = (jax.jit(jax.grad(f))(toklip.params) for f in (by_call, by_object))
    chex.assert_trees_all_close(one, other, atol=1e-5)
    largest = jax.tree.map(lambda x: float(jnp.abs(x).max()), one)
    assert min(jax.tree.leaves(largest["token_encoder"]["stack"])) >= 0
    assert max(jax.tree.leaves(largest["token_encoder"])) > 0
    assert max(jax.tree.leaves(largest["vq"])) == 0  # ids are where meaning starts


def test_other_parameters_give_other_results_and_leave_the_model(toklip, arrays, features):
    params = toklip.params | {"logit_scale": toklip.params["logit_scale"] + 1.0}
    before = toklip.similarity(*features)
    assert float(jnp.abs(toklip.with_params(params).similarity(*features) - before).max()) > 0.1
    np.testing.assert_array_equal(toklip.similarity(*features), before)
    with pytest.raises(ValueError, match="did you mean 'semantic_tokens'"):
        toklip.apply(params, arrays["ids"], "semantic_token")
    with pytest.raises(ValueError, match=r"expected integer ids \[b, 16\]"):
        toklip.apply(params, arrays["ids"][:, :3], "semantic_tokens")


def test_models_are_pickled_and_copied_after_calls(toklip, arrays):
    expected = toklip.semantic_tokens(arrays["ids"])
    for other in (pickle.loads(pickle.dumps(toklip)), copy.copy(toklip), copy.deepcopy(toklip)):
        np.testing.assert_array_equal(other.semantic_tokens(arrays["ids"]), expected)
        assert other.config == toklip.config


def test_the_representation_is_a_line(toklip):
    assert repr(toklip) == (
        "Tokenizer(toklip, 16 x 16 px, 16 ids of 16, width 16, 0.2 M parameters, float32)"
    )
