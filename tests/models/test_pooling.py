"""Pooling, as far as the recorded outputs of attention pooling don't check it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.weights import random_params
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.models.toklip.resize import resize_model
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.models.toklip.token_encoder import TokenEncoder
from toklip_jax.nn.config import Compute

CONFIG = VisionConfig(32, 1, 4, image_size=64, pool="flatten")


def test_flattened_pooling_is_one_linear_layer_over_all_tokens():
    encoder = TokenEncoder(CONFIG, Compute())
    codes = jax.random.normal(jax.random.key(0), (2, 16, 8))
    params = encoder.init(jax.random.key(1), codes)["params"]
    feature = encoder.apply({"params": params}, codes)
    tokens = encoder.apply({"params": params}, codes, method="tokens")
    kernel = params["pool"]["linear"]["kernel"].reshape(16, 32, 32)
    np.testing.assert_allclose(feature, jnp.einsum("bnd,nde->be", tokens, kernel), atol=1e-5)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match=r"expected a pool of .*'map'.* got 'mean'"):
        dataclasses.replace(CONFIG, pool="mean")


def test_flattened_pooling_refuses_another_image_size():
    config = dataclasses.replace(
        TOKLIP_SIZES["tiny"],
        vision=dataclasses.replace(TOKLIP_SIZES["tiny"].vision, pool="flatten"),
    )
    with pytest.raises(ValueError, match="tied to the number of tokens"):
        resize_model(config, {}, 96)


@pytest.mark.parametrize("pool", ["map", "flatten"])
def test_prefix_features_are_those_of_the_ids_alone_and_the_last_are_the_whole(pool):
    model, params = _toklip(pool)
    ids = jax.random.randint(jax.random.key(2), (2, 16), 0, model.config.vq.codebook_size)
    features = _apply(model, params, ids, (4, 16), method="prefix_features")
    whole = _apply(model, params, ids, method="image_features")
    np.testing.assert_allclose(features[:, 1], whole, atol=1e-5)
    others = ids.at[:, 4:].set(jnp.flip(ids[:, 4:]))
    again = _apply(model, params, others, (4, 16), method="prefix_features")
    np.testing.assert_allclose(again[:, 0], features[:, 0], atol=1e-5)
    assert np.abs(again[:, 1] - features[:, 1]).max() > 1e-3


def test_prefixes_need_a_causal_encoder_and_a_count_in_range():
    model, params = _toklip("map")
    ids = jnp.zeros((1, 16), jnp.int32)
    with pytest.raises(ValueError, match=r"counts in \[1, 16\], got \(0,\)"):
        model.apply(params, ids, (0,), method="prefix_features")
    with pytest.raises(ValueError, match=r"counts in \[1, 16\], got \(\)"):
        model.apply(params, ids, (), method="prefix_features")
    vision = dataclasses.replace(model.config.vision, is_causal=False)
    model = TokLIP(dataclasses.replace(model.config, vision=vision), Compute())
    with pytest.raises(ValueError, match="expected a causal token encoder"):
        model.apply(params, ids, (4,), method="prefix_features")


def test_flattened_token_features_add_up_to_the_pooled_one():
    model, params = _toklip("flatten")
    ids = jax.random.randint(jax.random.key(2), (2, 16), 0, model.config.vq.codebook_size)
    alone = _apply(model, params, ids, method="token_features")
    bias = params["params"]["token_encoder"]["pool"]["linear"]["bias"]
    whole = _apply(model, params, ids, method="image_features")
    np.testing.assert_allclose((alone - bias).sum(axis=1) + bias, whole, atol=1e-4)


def test_attention_pooling_of_one_token_is_its_token_feature():
    model, params = _toklip("map")
    ids = jax.random.randint(jax.random.key(2), (2, 16), 0, model.config.vq.codebook_size)
    alone = _apply(model, params, ids, method="token_features")
    tokens = _apply(model, params, ids, method="semantic_tokens")
    third = _apply(model, params, tokens[:, 2:3], method="pool_tokens")
    np.testing.assert_allclose(alone[:, 2], third, atol=1e-5)


@functools.cache
def _toklip(pool):
    config = TOKLIP_SIZES["tiny"]
    vision = dataclasses.replace(config.vision, pool=pool, is_causal=True)
    vq = LlamaGenConfig(64, channels=32, multipliers=(1,), num_res_blocks=1, stem_patch=16)
    model = TokLIP(dataclasses.replace(config, vision=vision, vq=vq), Compute())
    images = jnp.zeros((1, vision.image_size, vision.image_size, 3))
    token_ids = jnp.zeros((1, config.text.context_length), jnp.int32)
    return model, random_params(model.init, images, token_ids)


@functools.partial(jax.jit, static_argnums=(0, 3), static_argnames="method")
def _apply(model, params, inputs, *args, method):
    return model.apply(params, inputs, *args, method=method)
