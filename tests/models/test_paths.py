"""Every way of computing gives what the plain way gives."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.weights import random_params
from toklip_jax.models.llamagen.sizes import SIZES as VQ_SIZES
from toklip_jax.models.registry import build_model, init_params, param_shapes
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.siglip.sizes import SIZES as TEACHER_SIZES
from toklip_jax.models.toklip.resize import resize_model
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.models.toklip.token_encoder import TokenEncoder
from toklip_jax.nn.config import REMATS, Compute
from toklip_jax.nn.layout import to_scanned, to_unrolled
from toklip_jax.nn.norms import layer_norm, rms_norm
from toklip_jax.ops.activations import activation, gated

pytestmark = pytest.mark.usefixtures("highest_precision")

CONFIG = VisionConfig(32, 3, 4, is_causal=True, image_size=64)
PLAIN = Compute(is_scanned=False)
TOKLIP = TOKLIP_SIZES["tiny"]


@pytest.fixture(scope="module")
def codes():
    return jax.random.normal(jax.random.key(1), (2, 16, 8))


@pytest.fixture(scope="module")
def params(codes):
    return TokenEncoder(CONFIG, PLAIN).init(jax.random.key(0), codes)["params"]


@pytest.fixture(scope="module")
def toklip_params():
    return random_params(lambda key: init_params(TOKLIP, PLAIN, key))


def value_and_grad(compute, params, codes):
    encoder = TokenEncoder(CONFIG, compute)

    def loss(params):
        tokens = encoder.apply({"params": params}, codes, method="tokens")
        feature = encoder.apply({"params": params}, codes)
        return jnp.sum(jnp.sin(tokens)) + jnp.sum(feature**2), tokens

    (_, tokens), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return tokens, grads


@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize("remat", REMATS)
def test_scan_and_remat_change_neither_values_nor_gradients(params, codes, is_scanned, remat):
    want_tokens, want_grads = value_and_grad(PLAIN, params, codes)
    compute = Compute(is_scanned=is_scanned, remat=remat)
    changed = to_scanned(params, jnp.stack) if is_scanned else params
    tokens, grads = value_and_grad(compute, changed, codes)
    np.testing.assert_allclose(tokens, want_tokens, atol=1e-6)
    grads = to_unrolled(grads) if is_scanned else grads
    for path, want in jax.tree_util.tree_leaves_with_path(want_grads):
        got = grads
        for key in path:
            got = got[key.key]
        np.testing.assert_allclose(got, want, atol=2e-6 * max(1, float(jnp.abs(want).max())))


def stored(function, *inputs):
    """Number of elements that the forward pass stores for the backward one."""
    return sum(x.size for x in jax.tree.leaves(jax.vjp(function, *inputs)[1]))


@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh", "silu"])
def test_norms_and_activations_store_only_their_input(name):
    x = jnp.ones((64, 32))
    assert stored(activation(name), x) == x.size
    assert stored(gated(name), x, x) == 2 * x.size
    for build in (layer_norm, rms_norm):
        norm = build(1e-6, jnp.dtype("float32"), None)
        params = norm.init(jax.random.key(0), x)
        assert stored(norm.apply, params, x) <= x.size + 2 * x.shape[-1]


def test_the_more_is_recomputed_the_less_is_stored(params, codes):
    def tokens(remat):
        encoder = TokenEncoder(CONFIG, Compute(is_scanned=False, remat=remat))
        return stored(lambda p: encoder.apply({"params": p}, codes, method="tokens"), params)

    assert tokens("full") < tokens("dots") < tokens("none")


@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize("remat", REMATS)
def test_causal_mask_survives_scan_and_remat(params, codes, is_scanned, remat):
    compute = Compute(is_scanned=is_scanned, remat=remat)
    changed = to_scanned(params, jnp.stack) if is_scanned else params
    encoder = TokenEncoder(CONFIG, compute)
    at = 9

    @jax.jit
    @jax.grad
    def gradient(codes):
        return encoder.apply({"params": changed}, codes, method="tokens")[:, at].sum()

    grad = np.abs(gradient(codes)).sum((0, 2))
    assert (grad[: at + 1] > 0).all()
    assert (grad[at + 1 :] == 0).all()


def test_without_mask_every_token_sees_every_id(params, codes):
    encoder = TokenEncoder(dataclasses.replace(CONFIG, is_causal=False), PLAIN)

    @jax.jit
    @jax.grad
    def gradient(codes):
        return encoder.apply({"params": params}, codes, method="tokens")[:, 9].sum()

    grad = gradient(codes)
    assert (np.abs(grad).sum((0, 2)) > 0).all()


def test_changing_an_id_changes_no_token_before_it(toklip_params):
    model, params = build_model(TOKLIP, PLAIN), toklip_params
    ids = jax.random.randint(jax.random.key(1), (2, 16), 0, 512)
    tokens = jax.jit(lambda ids: model.apply({"params": params}, ids, method="semantic_tokens"))
    before = tokens(ids)
    for i in (0, 7, 15):
        after = tokens(ids.at[:, i].set((ids[:, i] + 1) % 512))
        np.testing.assert_array_equal(after[:, :i], before[:, :i])
        assert (np.abs(after[:, i:] - before[:, i:]).max((0, 2)) > 0).all()


def test_bfloat16_stays_near_float32_and_keeps_parameters_float32(toklip_params):
    low = Compute(dtype="bfloat16", is_scanned=False)
    shapes = jax.eval_shape(lambda rng: init_params(TOKLIP, low, rng), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    ids = jax.random.randint(jax.random.key(1), (2, 16), 0, 512)
    features = [run(compute, toklip_params, ids, "image_features") for compute in (low, PLAIN)]
    assert features[0].dtype == jnp.bfloat16
    similarity = np.sum(np.prod([f.astype(np.float32) for f in features], axis=0), -1)
    norms = np.prod([np.linalg.norm(f.astype(np.float32), axis=-1) for f in features], axis=0)
    assert (similarity / norms > 0.999).all()


def test_bfloat16_towers_do_not_change_ids(toklip_params):
    images = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3), minval=-1)
    low = Compute(dtype="bfloat16", is_scanned=False)
    ids = [run(compute, toklip_params, images, "tokenize") for compute in (PLAIN, low)]
    np.testing.assert_array_equal(*ids)


def run(compute, params, inputs, method):
    model = build_model(TOKLIP, compute)
    return jax.jit(lambda p, x: model.apply({"params": p}, x, method=method))(params, inputs)


def test_a_number_of_tokens_that_is_not_the_tables_is_refused(params):
    encoder = TokenEncoder(CONFIG, PLAIN)
    with pytest.raises(ValueError, match=r"expected 16 tokens .* got 25"):
        encoder.apply({"params": params}, jnp.zeros((1, 25, 8)))


def test_a_resized_model_takes_the_new_number_of_tokens(toklip_params):
    config, params = resize_model(TOKLIP, toklip_params, 96)
    model = build_model(config, PLAIN)
    tokens = jax.jit(lambda ids: model.apply({"params": params}, ids, method="semantic_tokens"))(
        jnp.zeros((1, 36), jnp.int32)
    )
    assert tokens.shape == (1, 36, 64)


@pytest.mark.parametrize(
    "config", [*VQ_SIZES.values(), *TOKLIP_SIZES.values(), TEACHER_SIZES["tiny"]]
)
def test_configs_survive_json(config):
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_layouts_undo_each_other():
    shapes = param_shapes(TEACHER_SIZES["tiny"])
    assert "image_tower/stack/blocks_2/mlp/fc1/kernel" in shapes
    tree = {"stack": {f"blocks_{i}": {"w": np.full((2,), i)} for i in range(11)}, "norm": {"b": 1}}
    scanned = to_scanned(tree)
    assert scanned["stack"]["blocks"]["w"].shape == (11, 2)
    np.testing.assert_array_equal(scanned["stack"]["blocks"]["w"][:, 0], np.arange(11))
    again = to_unrolled(scanned)
    assert list(again["stack"]) == list(tree["stack"])
