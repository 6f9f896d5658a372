"""The generator with TokLIP's tokens, and with several ids a place."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.weights import random_params
from toklip_jax.api import Generator
from toklip_jax.core.errors import UserError
from toklip_jax.costs.flops import count_flops
from toklip_jax.decoding import Sampling, images, loop, row_keys
from toklip_jax.decoding.images import sample_images
from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.registry import build_model, init_params
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.sizes import SIZES as TOKLIPS
from toklip_jax.nn import layers
from toklip_jax.nn.cache import KVCache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.quantisers import QuantiserConfig
from toklip_jax.ops.products import table_products
from toklip_jax.weights import Weights
from toklip_jax.weights.conversion import export_tensors

pytestmark = pytest.mark.usefixtures("highest_precision")

COMPUTE = Compute(is_scanned=False)
TOKLIP = TOKLIPS["tiny"]
GPT = GPTConfig(32, 2, 4, grid=(4, 4), codebook_sizes=(512,), num_classes=5)
SEMANTIC = {
    "add": {"semantic": "add"},
    "concat": {"semantic": "concat"},
    "codebook": {"semantic": "concat", "code_input": "codebook", "code_dim": 8},
}


def config_of(**changes):
    dims = {"semantic_dim": TOKLIP.vision.width} if "semantic" in changes else {}
    return GeneratorConfig(dataclasses.replace(GPT, **changes, **dims), TOKLIP)


def build(config, seed=0):
    """(model, parameters), of heads too, so that logits differ."""
    params = random_params(lambda key: init_params(config, COMPUTE, key))
    return build_model(config, COMPUTE), with_heads(params, seed)


def with_heads(params, seed=0):
    """The parameters, with heads drawn as well."""
    head, key = params["gpt"]["head"], jax.random.key(seed + 1)
    for name in head:
        key, own = jax.random.split(key)
        head[name] = jax.random.normal(own, head[name].shape)
    return jax.device_put(params)


@pytest.fixture(scope="module", params=SEMANTIC)
def generator(request):
    return build(config_of(**SEMANTIC[request.param]))


def draw_ids(config, rows=3):
    shape = (rows, *config.gpt.ids_shape)
    return jax.random.randint(jax.random.key(7), shape, 0, min(config.gpt.codebook_sizes))


@functools.partial(jax.jit, static_argnums=0)
def hidden(model, params, ids, classes):
    return model.apply({"params": params}, ids, classes, method="hidden")


@functools.partial(jax.jit, static_argnums=(0, 4))
def sample(model, params, classes, keys, sampling, kept=None):
    null = jnp.full(len(classes), model.config.gpt.null_class)
    return sample_images(model, params, classes, keys, sampling, null=null, kept=kept)


def test_cached_steps_equal_the_parallel_pass(generator):
    model, params = generator
    ids, classes = draw_ids(model.config), jnp.arange(3)
    prefill, step = (
        jax.jit(functools.partial(model.apply, {"params": params}, method=method))
        for method in ("prefill", "step")
    )
    out, caches = prefill(classes, model.init_caches(3))
    outs = [out]
    for place in range(ids.shape[1] - 1):
        out, caches = step(ids[:, place], caches)
        outs.append(out)
    parallel = hidden(model, params, ids, classes)
    np.testing.assert_allclose(np.stack(outs, 1), parallel, atol=2e-5)


def test_outputs_of_a_single_id_are_those_of_the_condition(generator):
    model, params = generator
    ids, classes = draw_ids(model.config), jnp.arange(3)
    first = hidden(model, params, ids[:, :1], classes)
    np.testing.assert_allclose(first, hidden(model, params, ids, classes)[:, :1], atol=2e-5)


def test_a_kept_part_continues_as_it_was_drawn(generator):
    model, params = generator
    keys = row_keys(jax.random.key(0), jnp.arange(3))
    sampling = Sampling(0, cfg_scale=2.0)
    whole = sample(model, params, jnp.arange(3), keys, sampling)
    again = sample(model, params, jnp.arange(3), keys, sampling, whole[:, :6])
    np.testing.assert_array_equal(whole, again)


def test_no_output_depends_on_what_follows(generator):
    model, params = generator
    ids, classes = draw_ids(model.config), jnp.arange(3)
    before = hidden(model, params, ids, classes)
    changed = hidden(model, params, ids.at[:, 8].set((ids[:, 8] + 1) % 512), classes)
    np.testing.assert_array_equal(before[:, :9], changed[:, :9])
    assert (np.asarray(before[:, 9:]) != np.asarray(changed[:, 9:])).any()


@pytest.mark.parametrize(
    ("config", "scale", "kept"),
    [
        (config_of(**SEMANTIC["codebook"]), 2, 3),
        (GeneratorConfig(dataclasses.replace(GPT, codebook_sizes=(64, 32))), 2, 3),
        (GeneratorConfig(GPT), 1, 0),
    ],
    ids=["semantic", "two ids a place", "plain"],
)
def test_transposed_kernels_and_a_loop_in_parts_draw_the_same(config, scale, kept, monkeypatch):
    model, params = build(config)
    ids = draw_ids(config)[:, :kept]
    keys, sampling = row_keys(jax.random.key(3), jnp.arange(3)), Sampling(cfg_scale=scale)
    args = model, params, jnp.arange(3), keys, sampling, ids if kept else None
    plain = sample(*args)
    fitted, resized = [], KVCache.resized
    monkeypatch.setattr(images, "LEAST_PLACES", 1)
    monkeypatch.setattr(loop, "LEAST", 4)
    monkeypatch.setattr(images, "CACHE_SHARE", 10**9)
    monkeypatch.setattr(
        KVCache, "resized", lambda cache, size: fitted.append(size) or resized(cache, size)
    )
    products = []
    monkeypatch.setattr(
        layers, "table_products", lambda *x: products.append(x) or table_products(*x)
    )
    decode = loop.decode
    monkeypatch.setattr(images, "decode", lambda *x: products.clear() or decode(*x))
    again = jax.jit(lambda *x: sample.__wrapped__(*x), static_argnums=(0, 4))  # compiled anew
    np.testing.assert_array_equal(again(*args), plain)
    assert len(fitted) >= 3
    assert len(products) >= 2 * 4 + 1  # of both layers, and the head


def test_int8_kernels_are_not_transposed(monkeypatch):
    pytest.importorskip("qwix", reason="NOT CHECKED: qwix, of the extra int8, is missing")
    config = GeneratorConfig(GPT)
    weights = Weights(config, jax.tree.map(np.asarray, build(config)[1]), is_scanned=False)
    generator = Generator.from_weights(weights, param_dtype="int8")
    ids = np.asarray(generator.sample(classes=[1, 2], key=3))
    monkeypatch.setattr(images, "LEAST_PLACES", 1)
    jax.clear_caches()
    np.testing.assert_array_equal(generator.sample(classes=[1, 2], key=3), ids)


def test_guidance_runs_the_token_encoder_once():
    model, params = build(config_of(semantic="concat"))
    caches = model.init_caches(3, copies=2)
    assert {len(keys) for keys in caches.gpt.keys} == {6}
    assert {len(keys) for keys in caches.encoder.keys} == {3}

    def flops(model, params, sampling):
        keys = row_keys(jax.random.key(0), jnp.arange(3))
        return count_flops(lambda p: sample(model, p, jnp.arange(3), keys, sampling), params)

    def guidance_flops(model, params):
        return flops(model, params, Sampling(cfg_scale=2.0)) - flops(model, params, Sampling())

    alone = build(dataclasses.replace(config_of(), tokenizer=None))
    # The fusing layer is the GPT's, and doubles with it.
    assert guidance_flops(model, params) < 1.3 * guidance_flops(*alone)


def test_an_image_of_the_released_size_costs_what_a_cache_allows():
    """GFLOP of GPT-B under guidance with so400m's tokens, 256 places: 102 and 217 published."""
    toklip = TOKLIPS["toklip_s_256"]
    gpt = GPTConfig(semantic="concat", semantic_dim=toklip.vision.width)
    model = build_model(GeneratorConfig(gpt, toklip), Compute(is_scanned=True))
    params = jax.eval_shape(
        lambda key: init_params(model.config, model.compute, key), jax.random.key(0)
    )
    keys = row_keys(jax.random.key(0), jnp.arange(1))
    classes, null = jnp.zeros(1, jnp.int32), jnp.full(1, gpt.null_class)
    sampling = Sampling(cfg_scale=2.0)
    flops = count_flops(
        lambda p: sample_images(model, p, classes, keys, sampling, null=null), params
    )
    assert (217 + 102) * 0.9 < flops / 1e9 < (217 + 102) * 1.1


@pytest.mark.parametrize("method", ["residual", "several"])
def test_places_of_several_ids_are_drawn_one_id_given_another(method):
    dim = 8 if method == "residual" else 4
    vq = ConvVQConfig(
        channels=32,
        multipliers=(1,),
        num_res_blocks=1,
        z_channels=32,
        stem_patch=8,
        quantiser=QuantiserConfig(method, 16, dim, 2),
    )
    gpt = dataclasses.replace(GPT, codebook_sizes=(16, 16))
    config = GeneratorConfig(gpt, vq)
    # As training starts: larger kernels round more than the bound below allows.
    fresh = jax.jit(lambda key: init_params(config, COMPUTE, key))(jax.random.key(0))
    model, params = build_model(config, COMPUTE), with_heads(fresh)
    ids, classes = draw_ids(model.config), jnp.arange(3)
    logits, hidden = (
        functools.partial(model.apply, {"params": params}, method=method)
        for method in ("logits", "hidden")
    )
    out = hidden(ids, classes)
    first, second = logits(ids, classes)
    assert first.shape == second.shape == (3, 16, 16)
    np.testing.assert_allclose(
        model.apply({"params": params}, out, 1, ids, method="logits_of"), second, atol=1e-5
    )
    other = ids.at[:, 0, 0].set((ids[:, 0, 0] + 1) % 16)
    changed = logits(other, classes)
    np.testing.assert_array_equal(changed[0][:, 0], first[:, 0])
    assert (np.asarray(changed[1][:, 0]) != np.asarray(second[:, 0])).any()
    keys = row_keys(jax.random.key(0), jnp.arange(3))
    drawn = sample(model, params, classes, keys, Sampling(cfg_scale=1.5))
    assert drawn.shape == (3, 16, 2)
    assert int(drawn.max()) < 16


def test_samples_have_the_distribution_of_the_model():
    """Against all 64 images of three places and four codes, whose probabilities are computed."""
    gpt = GPTConfig(32, 1, 2, grid=(1, 3), codebook_sizes=(4,), num_classes=2)
    model, params = build(GeneratorConfig(gpt), seed=3)
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    classes = jnp.ones(64, jnp.int32)
    apply = jax.jit(functools.partial(model.apply, method="logits"))
    logits = apply({"params": params}, every, classes)[:, :-1]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), every[..., None], -1)[..., 0]
    probabilities = np.exp(chosen.sum(1))
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
    count = 20_000
    keys = row_keys(jax.random.key(5), jnp.arange(count))
    ids = np.asarray(sample(model, params, jnp.ones(count, int), keys, Sampling()))
    counts = np.bincount(ids @ np.array([16, 4, 1]), minlength=64)
    expected = count * probabilities
    is_common = expected >= 5
    counts = np.append(counts[is_common], counts[~is_common].sum())
    expected = np.append(expected[is_common], expected[~is_common].sum())
    chi_squared = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    degrees = len(counts) - 1
    # Level 0.001, by Wilson and Hilferty's approximation of the quantile.
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert chi_squared < limit, (chi_squared, limit)


def test_every_kind_is_written_and_read_back(generator, tmp_path):
    from toklip_jax.weights.read import read_weights
    from toklip_jax.weights.writer import write_checkpoint

    model, params = generator
    weights = Weights(model.config, jax.tree.map(np.asarray, params), False)
    write_checkpoint(tmp_path / "g.safetensors", export_tensors(weights), lambda: None)
    back = read_weights(tmp_path / "g.safetensors", num_heads=4)
    gpt = dataclasses.replace(back.config.gpt, dropout=GPT.dropout)
    assert gpt == model.config.gpt
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(a, b), back.params["gpt"], weights.params["gpt"])
    )


def test_encoders_that_see_the_future_are_refused():
    vision = dataclasses.replace(TOKLIP.vision, is_causal=False)
    toklip = TokLIPConfig(TOKLIP.vq, vision, TOKLIP.text)
    with pytest.raises(UserError, match="causal token encoder"):
        dataclasses.replace(config_of(semantic="add"), tokenizer=toklip)
    with pytest.raises(UserError, match="TokLIP with semantic"):
        dataclasses.replace(config_of(semantic="add"), tokenizer=TOKLIP.vq)
    with pytest.raises(UserError, match="codebooks of"):
        GeneratorConfig(dataclasses.replace(GPT, codebook_sizes=(256,)), TOKLIP)
    with pytest.raises(UserError, match="a tokenizer with semantic"):
        GeneratorConfig(config_of(semantic="add").gpt)
    with pytest.raises(UserError, match="semantic_dim"):
        dataclasses.replace(GPT, semantic="add")
    with pytest.raises(UserError, match="either num_classes or caption_dim"):
        dataclasses.replace(GPT, caption_dim=8, caption_length=4)
