"""The convolutional tokenizer with any quantiser: each method, and configs that fit none."""

import dataclasses
import json
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.base import ids_shape
from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.models.registry import build_model, init_params, param_shapes
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.models.taming.config import TamingConfig
from toklip_jax.models.vila_u.config import VilaUConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.quantisers import QuantiserConfig, SignQuantiser
from toklip_jax.nn.quantisers.config import METHODS, Method
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.step import gradients
from toklip_jax.weights import Weights, load_weights, save_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

COMPUTE = Compute(is_scanned=False)
SIZE, DIM = (16, 24), 4
COUNTS = {"residual": 2, "several": 2}
WITHOUT_ENTROPY = {"residual"}


def config_of(method):
    return ConvVQConfig(
        channels=64,  # with 32, each of 32 groups is one channel, whose bias a norm takes away
        multipliers=(1,),
        num_res_blocks=1,
        z_channels=32,
        stem_patch=8,
        quantiser=QuantiserConfig(method, 2**DIM, DIM, COUNTS.get(method, 1)),
    )


@pytest.fixture(scope="module", params=METHODS)
def config(request):
    return config_of(request.param)


@pytest.fixture(scope="module")
def params(config):
    return jax.jit(lambda: init_params(config, COMPUTE, jax.random.key(0)))()


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (3, *SIZE, 3), minval=-1)


def test_ids_and_images_go_through_the_quantiser(config, params, images):
    model, grid = build_model(config, COMPUTE), config.grid_of(*SIZE)

    @jax.jit
    def both_ways(params, images):
        variables = {"params": params}
        ids = model.apply(variables, images, method="tokenize")
        decoded = model.apply(variables, ids, grid=grid, method="detokenize")
        vectors = model.apply(variables, ids, method="code_vectors")
        return ids, vectors, decoded, model.apply(variables, images)

    ids, vectors, decoded, out = both_ways(params, images)
    assert ids.dtype == jnp.int32
    assert ids.shape == (3, *ids_shape(config, grid))
    assert vectors.shape == (3, 6, config.code_dim)
    assert config.codebook_sizes == (2**DIM,) * config.codes_per_place
    assert (ids >= 0).all()
    assert (ids < 2**DIM).all()
    assert len(np.unique(ids)) > 1
    np.testing.assert_array_equal(out.ids, ids)
    np.testing.assert_allclose(out.images, decoded, atol=1e-5)


def test_training_moves_every_parameter(config, params, images):
    has_entropy = config.quantiser.method not in WITHOUT_ENTROPY
    objective = VQObjective(config, COMPUTE, entropy_weight=0.1 if has_entropy else 0.0)

    @jax.jit
    def compute(params, batch):
        return gradients(objective, params, {}, batch, jax.random.key(0), chunks=1)

    loss, metrics, grads = compute(params, {"images": images})
    assert jnp.isfinite(loss)
    assert not has_entropy or jnp.isfinite(metrics["entropy"])
    assert metrics["commitment"] > 0
    for path, gradient in flax.traverse_util.flatten_dict(grads, sep="/").items():
        assert jnp.isfinite(gradient).all(), path
        if not re.search(r"attn(_\d)?/k/bias", path):  # the softmax over keys takes it away
            assert jnp.abs(gradient).max() > 0, path
    assert ("codebook" in grads) == (config.quantiser.method != "sign")


def test_sign_codes_in_three_chunks_train_as_in_one(images):
    config = config_of("sign")
    objective = VQObjective(config, COMPUTE, entropy_weight=0.1)
    params = jax.jit(lambda: init_params(config, COMPUTE, jax.random.key(0)))()
    batch = {"images": images, "mask": jnp.array([True, False, True])}

    def compute(chunks):
        return jax.jit(lambda *x: gradients(objective, *x, jax.random.key(0), chunks=chunks))(
            params, {}, batch
        )

    want, got = compute(1), compute(3)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want[2]))
    # The entropy loss divides latents by 0.0025, which amplifies float32's rounding.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * largest), got[2], want[2]
    )


def test_configs_and_weights_are_read_as_they_were_written(config, params, tmp_path):
    text = json.dumps(config_to_dict(config))
    assert config_from_dict(json.loads(text)) == config
    save_weights(tmp_path / "weights", Weights(config, params, is_scanned=False))
    read = load_weights(tmp_path / "weights")
    assert read.config == config
    jax.tree.map(np.testing.assert_array_equal, read.params, params)


def test_a_decoder_may_be_wider_than_the_encoder(images):
    config = config_of("l2")
    wider = dataclasses.replace(config, decoder_channels=96)
    shapes, wide = param_shapes(config), param_shapes(wider)
    changed = {path for path in shapes if wide[path] != shapes[path]}
    assert changed
    assert all(path.startswith("decoder/") for path in changed)
    assert wide["decoder/conv_out/kernel"][2] == 96
    params = jax.jit(lambda: init_params(wider, COMPUTE, jax.random.key(0)))()
    made = build_model(wider, COMPUTE).apply({"params": params}, images).images
    assert made.shape == images.shape
    for channels in (-32, 40):
        with pytest.raises(ValueError, match="decoder_channels divisible by 32"):
            dataclasses.replace(config, decoder_channels=channels)


def test_methods_differ_in_their_quantiser_alone():
    def network(method):
        shapes = param_shapes(config_of(method))
        return {path: shape for path, shape in shapes.items() if "codebook" not in path}

    want = network("plain")
    for method in METHODS:
        if METHODS[method].is_joined:
            continue  # its vectors are longer
        assert network(method) == want, method


def test_attention_levels_are_counted_from_either_end():
    assert ConvVQConfig().attention_levels == (4,)
    assert ConvVQConfig(attention_levels=(-1, 0, 4)).attention_levels == (0, 4)
    assert ConvVQConfig(attention_levels=()).attention_levels == ()
    with pytest.raises(ValueError, match="expected attention_levels from -2 to 1"):
        ConvVQConfig(multipliers=(1, 2), attention_levels=(2,))
    paths = param_shapes(ConvVQConfig(multipliers=(1, 1, 1), attention_levels=(1,)))
    levels = {path.split("/")[1].split("_")[1] for path in paths if "_attn_" in path}
    assert levels == {"1"}


@pytest.mark.parametrize("config", [TamingConfig, IBQConfig, Emu3Config, VilaUConfig])
def test_no_family_takes_a_level_of_attention_that_it_does_not_have(config):
    assert config(multipliers=(1, 2)).attention_levels == (1,)
    with pytest.raises(ValueError, match="expected attention_levels from -2 to 1"):
        config(multipliers=(1, 2), attention_levels=(4,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "lookup"}, "expected a quantiser's method among"),
        ({"codebook_size": 0}, "expected a codebook_size of at least 1, got 0"),
        ({"dim": -1}, "expected a dim of at least 1, got -1"),
        ({"count": 2}, "expected with the method .l2. a count of 1"),
        (
            {"method": "sign", "dim": 4, "codebook_size": 15},
            "expected a codebook_size of 2.dim = 16",
        ),
        ({"method": "sign", "dim": 31}, "expected sign codes of 1 to 30 bits, got 31"),
    ],
)
def test_sizes_that_no_quantiser_has_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        QuantiserConfig(**fields)


def test_images_that_the_grid_does_not_divide_are_refused(config, params):
    model = build_model(config, COMPUTE)
    with pytest.raises(ValueError, match="expected image sides divisible by 8, got 16x20"):
        model.apply({"params": params}, jnp.zeros((1, 16, 20, 3)), method="tokenize")


@pytest.mark.parametrize(("is_joined", "code_dim"), [(True, 12), (False, 4)])
def test_a_method_with_several_ids_a_place_says_their_sizes(is_joined, code_dim, monkeypatch):
    method = Method(lambda c: SignQuantiser(c.dim), is_single=False, is_joined=is_joined)
    monkeypatch.setitem(METHODS, "many", method)
    config = ConvVQConfig(quantiser=QuantiserConfig("many", 16, 4, 3))
    assert config.codes_per_place == 3
    assert config.codebook_sizes == (16, 16, 16)
    assert config.code_dim == code_dim
    with pytest.raises(ValueError, match="expected with the method 'many' a count of at least 2"):
        QuantiserConfig("many", 16, 4)
