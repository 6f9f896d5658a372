"""UniTok: parity with the original stage by stage, its files both ways, its training path.

float32 at highest matmul precision. Bounds are the recordings' README's: 2e-5 before the quantiser
and for decoded images, 1e-6 for code vectors, 1e-4 for inner maps (noise at most 4e-6 everywhere).
"""

import dataclasses
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.weights import random_params
from tests.models.foreign_files import published, same_bits
from tests.models.stages import at, close, nhwc, run, stats_of
from toklip_jax.files import write_safetensors
from toklip_jax.files.rules import to_jax
from toklip_jax.models.base import Hints
from toklip_jax.models.registry import build_model, init_params, param_shapes, recognise
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.models.unitok.config import UniTokConfig
from toklip_jax.models.unitok.keys import TEXT_BLOCK_NAMES, TEXT_NAMES
from toklip_jax.models.unitok.projection import AttentionProjection
from toklip_jax.models.unitok.sizes import SIZES, UNITOK_LARGE
from toklip_jax.nn.config import Compute
from toklip_jax.nn.layout import to_scanned
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.weights import load_weights, save_weights
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import carried_reasons, export_tensors
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

REAL = "unitok_large_without_text"
ATOL, MAP_ATOL, CODE_ATOL = 2e-5, 1e-4, 1e-6
PLAIN = Compute(is_scanned=False)
SMALL = UniTokConfig(
    codebook_size=16,
    num_codebooks=2,
    codebook_dim=8,
    channels=(8, 12),
    depths=(1, 2),
    up_depths=(2, 1),
    width=32,
    depth=2,
    num_heads=4,
    mlp_dim=48,
    feature_dim=6,
)


@pytest.fixture(scope="module")
def weights(golden):
    return read_weights(golden("unitok_tiny/checkpoint.safetensors"), num_heads=4)


@pytest.fixture(scope="module")
def images(golden):
    return to_unit_range(np.load(golden("unitok_tiny/inputs.npz"))["image_u8_nhwc"])


@pytest.fixture(scope="module")
def want(golden):
    return np.load(golden("unitok_tiny/outputs.npz"))


@pytest.fixture(scope="module")
def reconstruction(weights, images):
    with jax.default_matmul_precision("highest"):
        return run(weights, images)


def test_ids_equal_the_recorded_ones(reconstruction, want):
    out, inner = reconstruction
    close(at(inner, "encoder"), want["encoder_out"], ATOL)
    close(at(inner, "quant_proj"), want["prequant"], ATOL)
    np.testing.assert_array_equal(out.ids, want["indices"].transpose(0, 2, 1))
    assert want["margin"].min() > 5e-4  # so that equal ids are no luck: noise is 1e-6


def test_tokenize_and_code_vectors_are_the_recorded_ones(weights, images, want):
    ids, _ = run(weights, images, "tokenize")
    np.testing.assert_array_equal(ids, want["indices"].transpose(0, 2, 1))
    vectors, _ = run(weights, ids, "code_vectors")
    close(vectors, want["code_vectors"], CODE_ATOL)
    straight, _ = run(weights, images, "encode")
    close(straight, want["quant_straight_through"], CODE_ATOL)


STAGES = {
    "stem": "encoder/stem_1",
    "stage0": "encoder/stages_0_block_1",
    "stage1": "encoder/stages_1_block_1",
    "pool": "encoder/embed",
    "enc_block0": "encoder/stack/blocks_0",
    "enc_block1": "encoder/stack/blocks_1",
    "post_quant": "post_quant_proj",
    "dec_block0": "decoder/stack/blocks_0",
    "dec_block1": "decoder/stack/blocks_1",
    "dec_norm": "decoder/norm",
    "dec_up1": "decoder/unembed",
    "dec_up2": "decoder/stages_0_block_3",
    "dec_up3": "decoder/stages_1_block_1",
}


@pytest.mark.parametrize("name", STAGES)
def test_inner_maps_equal_the_recorded_ones(name, reconstruction, want):
    got = at(reconstruction[1], STAGES[name])
    recorded = [key for key in (name, f"{name}_stats") if key in want]
    assert recorded
    for key in recorded:
        if key == name:
            array = nhwc(want[key]) if want[key].ndim == 4 else want[key]
            close(got[: len(array)], array, MAP_ATOL)  # of some, image 0 only
        else:
            close(stats_of(got), want[key], MAP_ATOL)


def test_images_equal_the_recorded_ones(weights, reconstruction, want):
    out, _ = reconstruction
    close(out.images, nhwc(want["decoded"]), ATOL)
    restored = nhwc(want["reconstructed_clamped"])
    close(np.clip(out.images, -1, 1)[: len(restored)], restored, ATOL)
    of_ids, _ = run(weights, out.ids, "detokenize")
    close(of_ids, nhwc(want["decoded"]), ATOL)


def test_losses_equal_the_recorded_ones(reconstruction, golden):
    recorded = json.loads(golden("unitok_tiny/config.json").read_text())
    losses = reconstruction[0].losses
    total = losses["codebook"].mean() + recorded["args"]["vq_beta"] * losses["commitment"].mean()
    np.testing.assert_allclose(total, recorded["vq_loss_eval"], rtol=1e-5)


def test_its_own_features_equal_the_recorded_ones(weights, images, want):
    features, _ = run(weights, images, "image_features")
    close(features, want["image_feature"], ATOL)
    close(l2_normalize(features), want["image_feature_norm"], ATOL)


@pytest.mark.parametrize("is_scanned", [False, True])
def test_a_round_trip_is_bit_exact(is_scanned, weights, golden, tmp_path):
    save_weights(tmp_path / "unitok", weights.with_layout(is_scanned))
    got = export_tensors(load_weights(tmp_path / "unitok"))
    expected = read_checkpoint(golden("unitok_tiny/checkpoint.safetensors")).tensors
    same_bits(got, expected)


def test_every_key_of_the_real_model_has_its_place(golden):
    tensors = published(golden, REAL)
    recognised = recognise(tensors)
    assert recognised.family.name == "unitok"
    config = recognised.infer(Hints())
    assert config == UNITOK_LARGE
    shapes = param_shapes(config)
    params, carried = to_jax(tensors, recognised.family.keys.rules(config, "", ""), shapes)
    assert {path: array.shape for path, array in params.items()} == shapes
    assert set(carried) == {
        "logit_scale",
        "encoder.pos_embed",
        "quant_proj.attn.zero_k_bias",
        "post_quant_proj.attn.zero_k_bias",
        *(f"quantizer.codebooks.{i}.vocab_usage" for i in range(8)),
    }


def test_the_text_towers_tensors_are_carried_with_a_reason(weights, golden, tmp_path):
    source = read_checkpoint(golden("unitok_tiny/checkpoint.safetensors")).tensors
    blocks = (f"transformer.resblocks.{i}.{name}" for i in range(2) for name in TEXT_BLOCK_NAMES)
    text = {f"text_encoder.{n}": np.ones(2, np.float16) for n in (*TEXT_NAMES, *blocks)}
    write_safetensors(tmp_path / "whole.safetensors", dict(source) | text)
    whole = read_weights(tmp_path / "whole.safetensors", num_heads=4)
    assert set(whole.carried) == set(weights.carried) | set(text)
    assert all(carried_reasons(whole).values())
    assert set(export_tensors(whole)) == set(source) | set(text)


def test_the_earlier_weights_are_named_and_read_as_causal(golden):
    recognised = recognise(published(golden, REAL))
    assert recognised.infer(Hints(is_causal=True)) == SIZES["unitok_large_causal"]
    # Within TokLIP, the hint is about its token encoder.
    inside = {f"vq.{name}": tensor for name, tensor in recognised.tensors.items()}
    keys = recognised.family.keys
    assert keys.infer(inside, Hints(num_heads=2, is_causal=True), "vq.") == UNITOK_LARGE


def small_params(config=SMALL):
    return random_params(lambda key: init_params(config, PLAIN, key))


def apply(params, *inputs, config=SMALL, compute=PLAIN, method=None):
    model = build_model(config, compute)
    return jax.jit(lambda p: model.apply({"params": p}, *inputs, method=method))(params)


@pytest.fixture(scope="module")
def small_images():
    return jax.random.uniform(jax.random.key(1), (2, 32, 48, 3), minval=-1)


def test_images_of_another_shape_than_a_square_are_restored(small_images):
    params = small_params()
    ids = apply(params, small_images, method="tokenize")
    assert ids.shape == (2, 6, 2)
    restored = apply(params, ids, (2, 3), method="detokenize")
    np.testing.assert_allclose(restored, apply(params, small_images).images, atol=1e-4)
    assert restored.shape == small_images.shape


def test_scanned_layers_and_bfloat16_towers_change_no_ids(small_images):
    params = small_params()
    want = apply(params, small_images, method="tokenize")
    for compute in (Compute(is_scanned=True), Compute(dtype="bfloat16", is_scanned=False)):
        changed = to_scanned(params, jnp.stack) if compute.is_scanned else params
        got = apply(changed, small_images, compute=compute, method="tokenize")
        np.testing.assert_array_equal(got, want)


@pytest.mark.plain
def test_every_parameter_but_the_heads_gets_a_gradient(small_images):
    params, model = small_params(), build_model(SMALL, PLAIN)

    @jax.jit
    @jax.grad
    def gradients(params):
        out = model.apply({"params": params}, small_images)
        between = model.apply({"params": params}, out.latents, method="between_rows")
        rows = jnp.mean((out.images - small_images) ** 2) + sum(map(jnp.mean, out.losses.values()))
        return rows + between["entropy"]

    found = flax.traverse_util.flatten_dict(gradients(params), sep="/")
    assert all(np.isfinite(array).all() for array in found.values())
    still = {path for path, array in found.items() if not np.any(array)}
    head = {f"feature_{name}" for name in ("norm/scale", "norm/bias", "proj/kernel", "proj/bias")}
    assert still == head


@pytest.mark.parametrize("width", [8, 32])
@pytest.mark.parametrize("is_causal", [False, True])
def test_a_causal_projection_sees_nothing_of_later_places(width, is_causal):
    x = jax.random.normal(jax.random.key(0), (1, 6, 16))
    module = AttentionProjection(width, 2, is_causal)
    params = jax.jit(module.init)(jax.random.key(1), x)
    apply = jax.jit(module.apply)
    before, after = (apply(params, each) for each in (x, x.at[:, 4].multiply(jnp.arange(16.0))))
    changed = np.abs(after - before).max((0, 2)) > 0
    np.testing.assert_array_equal(changed, [not is_causal] * 4 + [True, True])


def test_a_tokenizer_without_a_head_has_no_such_parameters(small_images):
    config = dataclasses.replace(SMALL, feature_dim=0)
    assert not [path for path in param_shapes(config) if path.startswith("feature")]
    with pytest.raises(ValueError, match="expected weights with UniTok's head"):
        apply(small_params(config), small_images, config=config, method="image_features")


def test_the_config_survives_json_and_answers_what_is_asked_of_a_tokenizer():
    for config in (SMALL, *SIZES.values()):
        assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    assert UNITOK_LARGE.codebook_sizes == (4096,) * 8
    assert (UNITOK_LARGE.codes_per_place, UNITOK_LARGE.code_dim) == (8, 64)
    assert UNITOK_LARGE.grid_of(256, 256) == (16, 16)
    with pytest.raises(ValueError, match="expected image sides divisible by 16, got 256x250"):
        UNITOK_LARGE.grid_of(256, 250)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_codebooks": 1}, "expected a num_codebooks of at least 2, got 1"),
        ({"channels": (8,)}, "expected 2 channels of at least 1"),
        ({"depths": (0, 1)}, "expected 2 depths of at least 1"),
        ({"codebook_dim": 16}, "expected a width that is a multiple of .* got 32 and 32"),
        ({"num_heads": 3}, "expected num_heads to divide the width"),
        ({"mlp_dim": 0}, "expected an mlp_dim of at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_files_that_do_not_fit_are_refused(golden, tmp_path):
    source = dict(read_checkpoint(golden("unitok_tiny/checkpoint.safetensors")).tensors)

    def refused(changes, message, **hints):
        path = tmp_path / "changed.safetensors"
        write_safetensors(path, {k: v for k, v in (source | changes).items() if v is not None})
        with pytest.raises(ValueError, match=message):
            read_weights(path, **hints)

    refused({}, "expected the width and depth of a named size or num_heads")
    positions = np.ones((1, 1, 64), np.float16)
    refused({"encoder.pos_embed": positions}, "expected zeros in encoder.pos_embed", num_heads=4)
    gone = "quantizer.codebooks.2.codebook.weight"
    refused({gone: None}, rf"missing: {gone} \(128, 8\)", num_heads=4)
    refused(
        {gone: source[gone].astype(np.float32)},
        r"of several types: the entries of quantiser/codebook are \['float16', 'float32'\]",
        num_heads=4,
    )
    shorter = {gone: source[gone][:100]}
    refused(shorter, rf"misshaped: {gone} is \(100, 8\), expected \(128, 8\)", num_heads=4)
    refused({"encoder.extra": positions}, "unknown: encoder.extra", num_heads=4)
