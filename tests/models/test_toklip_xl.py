"""TokLIP-XL, on IBQ's codes, equals its recordings; bounds as their README says."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from tests.models.stages import at, close, nhwc, run
from tests.models.vq_recordings import LEVEL_ATOL, ROW_ATOL, images_of, rows
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.models.toklip.model import similarity
from toklip_jax.models.toklip.resize import resize_model
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import resample_positions
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

FILE = "toklip_xl_tiny/checkpoint.safetensors"
HEADS = {"num_heads": 4, "text_num_heads": 4}
FINE = 1e-5  # a LayerNorm's epsilon of 1e-5 moves tokens by 3.2e-5, and features by 2.1e-5


@pytest.fixture(scope="module")
def weights(golden):
    return read_weights(golden(FILE), **HEADS)


@pytest.fixture(scope="module")
def want(golden):
    return dict(np.load(golden("toklip_xl_tiny/outputs_causal.npz")))


@pytest.fixture(scope="module")
def inputs(golden):
    return np.load(golden("toklip_xl_tiny/inputs.npz"))


@pytest.fixture(scope="module")
def images(inputs):
    return images_of(inputs["image_u8_nhwc"])


def test_its_sizes_are_told_by_its_shapes(weights):
    sizes = {"channels": 32, "multipliers": (1,) * 5, "num_res_blocks": 2, "z_channels": 32}
    assert weights.config.vq == IBQConfig(512, 32, **sizes)
    vision = weights.config.vision
    assert (vision.image_size, vision.patch_size, vision.is_causal) == (64, 16, True)
    assert (vision.depth, vision.mlp_dim) == (2, 239)


def test_ids_rows_and_images_equal_the_recorded_ones(weights, images, want):
    ids, inner = run(weights, images, "tokenize")
    close(at(inner, "vq/encoder"), nhwc(want["vq_encoder_out"]))
    close(at(inner, "vq/quant_conv"), nhwc(want["vq_prequant"]))
    np.testing.assert_array_equal(ids, want["vq_indices"])
    assert want["vq_margin"].min() > 1.2e-2  # so that equal ids are no luck
    vectors, _ = run(weights, ids, "code_vectors")
    for name in ("vq_quant_nchw", "codebook_entry"):
        close(vectors, rows(want[name]), ROW_ATOL)
    close(vectors, want["vq_quant_seq"], ROW_ATOL)
    restored, _ = run(weights, ids, "detokenize")
    close(restored, nhwc(want["decoded"]), LEVEL_ATOL)


def test_the_api_gives_the_recorded_ids_features_and_images(golden, inputs, want):
    toklip = toklip_jax.load(golden(FILE), **HEADS)
    ids = toklip.tokenize(inputs["image_u8_nhwc"])
    np.testing.assert_array_equal(ids, want["vq_indices"])
    close(toklip.image_features(ids=ids), want["image_feature_norm"], FINE)
    close(toklip.text_features(inputs["token_ids"]), want["text_feature_norm"])
    close(toklip.detokenize(ids), np.clip(nhwc(want["decoded"]), -1, 1), LEVEL_ATOL)


def test_other_searches_give_the_other_ids_that_were_recorded(weights, images, want, golden):
    config = json.loads(golden("toklip_xl_tiny/config.json").read_text())
    _, inner = run(weights, images, "tokenize")
    latents = at(inner, "vq/quant_conv").reshape(-1, 32)
    codebook = jnp.asarray(weights.params["vq"]["codebook"], jnp.float32)
    nearest = nearest_code(latents, codebook)
    cosine = nearest_code(l2_normalize(latents), l2_normalize(codebook))
    for ids, short, long in ((nearest, "l2", "l2"), (cosine, "cos", "cosine")):
        ids = np.asarray(ids).reshape(4, 16)
        np.testing.assert_array_equal(ids, want[f"wrong_{short}_indices"])
        differing = np.sum(ids != want["vq_indices"])
        assert differing == config[f"ids_that_differ_under_{long}_lookup"]


@pytest.mark.parametrize("is_causal", [True, False])
def test_token_encoder_equals_the_recorded_stages(weights, want, golden, is_causal):
    if not is_causal:
        want = want | dict(np.load(golden("toklip_xl_tiny/outputs_full.npz")))
    vision = dataclasses.replace(weights.config.vision, is_causal=is_causal)
    config = dataclasses.replace(weights.config, vision=vision)
    weights = dataclasses.replace(weights, config=config)
    ids = want["vq_indices"]
    tokens, inner = run(weights, ids, "semantic_tokens")
    encoder = inner["token_encoder"]
    hidden, mapped = at(encoder, "mapping/fc1"), at(encoder, "mapping")
    close(hidden, want["vq_table_out"], FINE)
    close(jax.nn.gelu(hidden, approximate=False), want["vq_act_out"], FINE)
    close(mapped, want["vq_mapped"], FINE)
    table = np.asarray(weights.params["token_encoder"]["pos_embed"], np.float32)
    close(mapped + table, want["with_pos_embed"], FINE)
    block = encoder["stack"]["blocks_0"]
    for part in ("norm1", "attn", "mlp") if is_causal else ("norm1", "attn"):
        close(at(block, part), want[f"block0_{part}"], FINE)
    for i in range(2):
        close(at(encoder, f"stack/blocks_{i}"), want[f"block{i}"], FINE)
    close(tokens, want["tokens"], FINE)
    feature, inner = run(weights, ids, "image_features")
    pool = inner["token_encoder"]["pool"]
    query = np.broadcast_to(np.asarray(at(pool, "q")).reshape(1, 1, 64), (4, 1, 64))
    close(query, want["pool_q"], FINE)
    if is_causal:  # with full attention they were not recorded, nor was the MLP above
        close(at(pool, "kv").reshape(4, 16, 128), want["pool_kv"], FINE)
        close(at(pool, "mlp"), want["pool_mlp"], FINE)
    close(at(pool, "proj"), want["pool_attn"], FINE)
    close(feature, want["image_feature"], FINE)
    close(l2_normalize(feature), want["image_feature_norm"], FINE)
    scale, bias = scale_and_bias(weights)
    text = jnp.asarray(want["text_feature_norm"])
    logits = similarity(l2_normalize(feature), text, scale, bias)
    close(logits, want["image_logits"])


def scale_and_bias(weights):
    return [jnp.asarray(weights.params[f"logit_{name}"], jnp.float32) for name in ("scale", "bias")]


def test_text_tower_and_logits_equal_the_recorded_ones(weights, inputs, want):
    feature, inner = run(weights, inputs["token_ids"], "text_features")
    tower = inner["text_tower"]
    embedded = np.asarray(weights.params["text_tower"]["token_embed"], np.float32)
    close(embedded[inputs["token_ids"]], want["text_token_embedding"], ROW_ATOL)
    for i in range(2):
        close(at(tower, f"stack/blocks_{i}"), want[f"text_block{i}"])
    close(at(tower, "norm"), want["text_tokens"])
    close(feature, want["text_feature"])
    close(l2_normalize(feature), want["text_feature_norm"])
    scale, bias = scale_and_bias(weights)
    for got, name in ((scale, "scale"), (jnp.exp(scale), "scale_exp"), (bias, "bias")):
        np.testing.assert_allclose(got, want[f"logit_{name}"], 1e-6)
    image = jnp.asarray(want["image_feature_norm"])
    close(similarity(image, l2_normalize(feature), scale, bias).T, want["text_logits"])


def test_the_running_mean_of_its_vq_gives_other_ids_and_features(golden, images, want, caplog):
    mean = read_weights(golden(FILE), **HEADS, is_ema=True)
    assert "running mean in visual.trunk.vq.model_ema" in mean.source
    ids, _ = run(mean, images, "tokenize")
    np.testing.assert_array_equal(ids, want["ema_vq_indices"])
    assert np.sum(np.asarray(ids) != want["vq_indices"]) == 61
    feature, _ = run(mean, ids, "image_features")
    close(feature, want["ema_image_feature"], FINE)
    restored, _ = run(mean, np.asarray(ids[:1]), "detokenize")
    close(restored, nhwc(want["ema_decoded_image0"]), LEVEL_ATOL)


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations([16, 24, 32], 2)))
def test_position_tables_of_all_published_sizes_are_resampled_to_each_other(weights, old, new):
    """256, 576 and 1,024 tokens, of 256, 384 and 512 pixels."""
    config, params = resize_model(weights.config, weights.params, 16 * old)
    table = np.asarray(params["token_encoder"]["pos_embed"])
    assert table.shape == (old * old, 64)
    resized, again = resize_model(config, params, 16 * new)
    assert resized.vision.num_tokens == len(again["token_encoder"]["pos_embed"]) == new * new

    # What varies slowly over the image stays where it was: at the same share of its sides.
    def places(side):
        rows, columns = np.mgrid[:side, :side] / side + 0.5 / side
        return np.stack([np.sin(3 * rows), np.cos(2 * columns + rows)], -1).reshape(-1, 2)

    got = resample_positions(jnp.asarray(places(old), jnp.float32), (new, new), (old, old))
    edge = new // 8  # where the outermost rows are extended
    inner = np.s_[edge:-edge, edge:-edge]
    got, expected = (x.reshape(new, new, 2)[inner] for x in (np.asarray(got), places(new)))
    np.testing.assert_allclose(got, expected, atol=5e-3)
