"""A generator whose weights are kept as int8, against the same in float32."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.cli.generate import main
from toklip_jax.core.errors import UserError
from toklip_jax.models.registry import family_of
from toklip_jax.ops.products import Quantised, dot_general
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.weights.quantised import place_int8
from toklip_jax.weights.read import read_weights

pytestmark = [pytest.mark.plain, pytest.mark.usefixtures("highest_precision")]

FILE = "gpt_c2i_tiny/checkpoint.safetensors"


@pytest.fixture(scope="module")
def qwix():
    return pytest.importorskip("qwix", reason="NOT CHECKED: qwix, of the extra int8, is missing")


@pytest.fixture(scope="module")
def pair(golden, qwix):
    """The generator in float32, and as int8."""
    return toklip_jax.load(golden(FILE)), toklip_jax.load(golden(FILE), param_dtype="int8")


def dequantised(qwix, params):
    def plain(x):
        return qwix.dequantize(x) if isinstance(x, qwix.QArray) else x

    return jax.tree.map(plain, params, is_leaf=lambda x: isinstance(x, qwix.QArray))


def inputs(golden):
    recorded = np.load(golden("gpt_c2i_tiny/inputs.npz"))
    return recorded["ids"], {"classes": recorded["class_ids"]}


def test_products_are_those_of_the_dequantised_weights(pair, qwix, golden):
    plain, int8 = pair
    ids, condition = inputs(golden)
    want = plain.with_params(dequantised(qwix, int8.params)).logits(ids, **condition)
    # Scaling sums, not weights: float32's rounding alone, of logits up to 13.
    np.testing.assert_allclose(int8.logits(ids, **condition), want, atol=1e-4)
    options = {"key": 5, "cfg_scale": 2.0, **condition}
    drawn = plain.with_params(dequantised(qwix, int8.params)).sample(**options)
    np.testing.assert_array_equal(int8.sample(**options), drawn)


def test_logits_and_likelihood_stay_near_those_of_float32(pair, golden):
    ids, condition = inputs(golden)
    want, got = (model.logits(ids, **condition) for model in pair)
    # Rounding a weight to 1 part in 254 of its channel's largest, through three blocks.
    assert 1e-3 < float(jnp.sqrt(jnp.mean((got - want) ** 2)) / jnp.std(want)) < 0.03
    nats = [np.asarray(model.nats_per_id(ids, **condition)) for model in pair]
    np.testing.assert_allclose(nats[1], nats[0], rtol=0.02)


def test_nats_are_those_of_the_logits(golden):
    plain = toklip_jax.load(golden(FILE))
    ids, condition = inputs(golden)
    logits = np.asarray(plain.logits(ids, **condition))[:, :-1]
    logp = logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))
    want = -np.mean(np.take_along_axis(logp, ids[..., None], -1), axis=(1, 2))
    np.testing.assert_allclose(plain.nats_per_id(ids, **condition), want, rtol=1e-5)


def test_weights_are_kept_as_int8(pair, qwix):
    plain, int8 = pair
    leaves = jax.tree.leaves(int8.params, is_leaf=lambda x: isinstance(x, qwix.QArray))
    kept = [x for x in leaves if isinstance(x, qwix.QArray)]
    assert len(kept) == 3 * 5 + 1  # of each block five, and the head
    assert all(x.qvalue.dtype == np.int8 for x in kept)
    weights = sum(x.qvalue.size for x in kept)
    scales = sum(x.scale.nbytes for x in kept)
    assert int8.param_bytes == plain.param_bytes - 3 * weights + scales
    assert int8.param_bytes < 0.4 * plain.param_bytes


def test_each_layer_and_channel_has_a_scale_of_its_own(qwix, golden):
    """Stacked layers give the scales of layers apart."""
    weights = read_weights(golden(FILE))
    family = family_of(weights.config)
    stacked = place_int8(weights.with_layout(True), family)["gpt"]["stack"]["blocks"]
    apart = place_int8(weights.with_layout(False), family)["gpt"]["stack"]
    for i in range(3):
        for path in (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc2")):
            one, all_layers = apart[f"blocks_{i}"], stacked
            for name in (*path, "kernel"):
                one, all_layers = one[name], all_layers[name]
            np.testing.assert_array_equal(all_layers.qvalue[i], one.qvalue)
            np.testing.assert_array_equal(all_layers.scale[i], one.scale)


def test_scanned_layers_draw_the_same(pair, golden):
    _, int8 = pair
    weights = read_weights(golden(FILE)).with_layout(not int8.model.compute.is_scanned)
    other = toklip_jax.Generator.from_weights(weights, param_dtype="int8")
    ids, condition = inputs(golden)
    want = int8.logits(ids, **condition)
    np.testing.assert_allclose(other.logits(ids, **condition), want, atol=1e-4)


def test_a_mesh_shards_whole_numbers_and_scales(pair, golden):
    _, int8 = pair
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    sharded = toklip_jax.load(golden(FILE), param_dtype="int8", mesh=mesh)
    ids, condition = inputs(golden)
    np.testing.assert_array_equal(sharded.logits(ids, **condition), int8.logits(ids, **condition))


def test_the_command_keeps_int8_runs_apart(pair, golden, tmp_path):
    out = tmp_path / "out"
    flags = [f"--weights={golden(FILE)}", "--classes=1,2", "--num=2", f"--output={out}"]
    assert main([*flags, "--int8"]) == 0
    want = pair[1].sample(classes=[1, 2], key=0, cfg_scale=2.0)
    with np.load(out / "ids" / "part-00000.npz") as part:
        np.testing.assert_array_equal(part["ids"], want)
    assert main(flags) == 2  # other samples are there


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_with_quantised_weights_scales_each_channel(qwix, dtype):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 5, 4, 6), dtype)
    kernel = jax.random.normal(keys[1], (4, 6, 7, 3))
    axes = ((2, 3), (0, 1)), ((), ())
    quantised = qwix.quantize(kernel, jnp.int8, channelwise_axes=(2, 3))
    assert isinstance(quantised, Quantised)
    assert not isinstance(kernel, Quantised)
    got = dot_general(x, quantised, axes)
    want = jnp.tensordot(x.astype(jnp.float32), qwix.dequantize(quantised), 2)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.astype(jnp.float32), want, atol=1e-5 if dtype == "float32" else 0.06
    )


def test_a_missing_package_is_one_clear_error(golden, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("qwix")
    with pytest.raises(UserError, match=r"pip install 'toklip_jax\[int8\]'"):
        toklip_jax.load(golden(FILE), param_dtype="int8")


def test_other_models_have_no_int8(golden):
    with pytest.raises(UserError, match="that may be kept as int8, TokLIP or a generator"):
        toklip_jax.load(golden("taming_tiny/checkpoint.safetensors"), param_dtype="int8")


def test_a_mistyped_type_of_a_generators_weights_is_told_of_int8(golden):
    with pytest.raises(UserError, match=r"'int8'\], got 'int4': did you mean 'int8'"):
        toklip_jax.load(golden(FILE), param_dtype="int4")
