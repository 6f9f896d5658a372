"""TokLIP whose token encoder is kept as int8, against the same in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from benchmarks.weights import random_params
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights
from toklip_jax.weights.read import read_weights

pytestmark = [pytest.mark.plain, pytest.mark.usefixtures("highest_precision")]

qwix = pytest.importorskip("qwix", reason="NOT CHECKED: qwix, of the extra int8, is missing")


@pytest.fixture(scope="module")
def int8(path):
    return toklip_jax.load(path, param_dtype="int8")


@pytest.fixture(scope="module")
def images(inputs):
    return inputs["image_u8_nhwc"]


def dequantised(params):
    def plain(x):
        return qwix.dequantize(x) if isinstance(x, qwix.QArray) else x

    return jax.tree.map(plain, params, is_leaf=lambda x: isinstance(x, qwix.QArray))


def cosine(a, b):
    return np.sum(np.asarray(a) * np.asarray(b), axis=-1)


def test_ids_and_reconstructions_are_exact(toklip, int8, images):
    ids = toklip.tokenize(images)
    np.testing.assert_array_equal(int8.tokenize(images), ids)
    np.testing.assert_array_equal(int8.detokenize(ids), toklip.detokenize(ids))


def test_text_features_are_exact(toklip, int8, inputs):
    shape = (2, toklip.config.text.context_length)
    texts = np.arange(np.prod(shape)).reshape(shape) % toklip.config.text.vocab_size
    np.testing.assert_array_equal(int8.text_features(texts), toklip.text_features(texts))


def test_features_are_near_those_of_float32(toklip, int8, images):
    ids = toklip.tokenize(images)
    close = cosine(int8.image_features(ids=ids), toklip.image_features(ids=ids))
    # Rounding a weight to 1 part in 254 of its channel's largest.
    assert 0.999 < close.min() < 1 - 1e-7


def test_products_are_those_of_the_dequantised_weights(toklip, int8, images):
    ids = toklip.tokenize(images)
    plain = toklip.with_params(dequantised(int8.params))
    for method in ("semantic_tokens", "token_features"):
        got, want = (getattr(model, method)(ids) for model in (int8, plain))
        np.testing.assert_allclose(got, want, atol=2e-5)
    np.testing.assert_allclose(
        int8.image_features(ids=ids), plain.image_features(ids=ids), atol=1e-5
    )


def test_the_token_encoders_products_and_no_others_are_int8(int8):
    flat, _ = jax.tree_util.tree_flatten_with_path(
        int8.params, is_leaf=lambda x: isinstance(x, qwix.QArray)
    )
    kept = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}
    whole = {name for name, x in kept.items() if isinstance(x, qwix.QArray)}
    kernels = {name for name in kept if name.startswith("token_encoder/") and "kernel" in name}
    assert whole == kernels
    assert all(kept[name].qvalue.dtype == jnp.int8 for name in whole)


def test_stacked_layers_give_the_same_features(toklip, int8, path, images):
    ids = toklip.tokenize(images)
    weights = read_weights(path)
    other = toklip_jax.Tokenizer.from_weights(
        weights.with_layout(not weights.is_scanned), param_dtype="int8"
    )
    np.testing.assert_allclose(
        other.image_features(ids=ids), int8.image_features(ids=ids), atol=1e-5
    )


def test_a_pool_over_all_tokens_is_quantised_too(toklip, images):
    vision = dataclasses.replace(toklip.config.vision, pool="flatten")
    config = dataclasses.replace(toklip.config, vision=vision)
    params = random_params(lambda key: init_params(config, Compute(), key))
    weights = Weights(config, params, Compute().is_scanned)
    plain, int8 = (
        toklip_jax.Tokenizer.from_weights(weights, param_dtype=kind) for kind in ("float32", "int8")
    )
    assert isinstance(int8.params["token_encoder"]["pool"]["linear"]["kernel"], qwix.QArray)
    ids = plain.tokenize(images)
    close = cosine(int8.image_features(ids=ids), plain.image_features(ids=ids))
    assert 0.999 < close.min() < 1 - 1e-7


def test_bfloat16_activations_take_int8_weights(path, toklip, images):
    ids = toklip.tokenize(images)
    both = toklip_jax.load(path, param_dtype="int8", dtype="bfloat16")
    assert cosine(both.image_features(ids=ids), toklip.image_features(ids=ids)).min() > 0.995
