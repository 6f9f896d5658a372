"""Pooling, beyond what the recorded outputs show of the MAP kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.config import Compute, VisionConfig
from toklip_jax.models.resize import resize_model
from toklip_jax.models.sizes import TOKLIP_SIZES
from toklip_jax.models.token_encoder import TokenEncoder

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
