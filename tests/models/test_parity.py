"""Parity with the PyTorch implementation, stage by stage; bounds as the recordings' README says.

float32 at highest matmul precision. Noise of float32 against float64 is up to 6e-6 for the towers
and 2.5e-5 for the VQ's inner levels and images, whose activations are large: hence 2e-5 and 1e-4.
"""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.stages import at, close, end_of_level, nhwc, run, stats_of
from toklip_jax.models.toklip.model import similarity
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

VQ_ATOL = 1e-4


@pytest.fixture(scope="module")
def toklip(golden):
    return read_weights(golden("toklip_tiny/checkpoint.pt"))


@pytest.fixture(scope="module")
def teacher(golden):
    return read_weights(golden("teacher_tiny/checkpoint.safetensors"))


@pytest.fixture(scope="module")
def inputs(golden):
    return np.load(golden("toklip_tiny/inputs.npz"))


def with_mask(toklip, is_causal):
    vision = dataclasses.replace(toklip.config.vision, is_causal=is_causal)
    return dataclasses.replace(toklip, config=dataclasses.replace(toklip.config, vision=vision))


def test_toklip_ids_equal_the_recorded_ones(toklip, inputs, golden):
    want = np.load(golden("toklip_tiny/outputs_causal.npz"))
    ids, inner = run(toklip, inputs["image_nhwc"], "tokenize")
    close(nhwc(want["vq_prequant"]), at(inner, "vq/quant_conv"))
    np.testing.assert_array_equal(ids, want["vq_indices"])
    codes, _ = run(toklip, want["vq_indices"], lambda m, ids: m.vq.code_vectors(ids))
    close(codes, want["vq_quant_seq"])


@pytest.mark.parametrize("is_causal", [True, False])
def test_token_encoder_equals_the_recorded_stages(toklip, golden, is_causal):
    causal = np.load(golden("toklip_tiny/outputs_causal.npz"))
    want = dict(causal) | dict(
        np.load(golden(f"toklip_tiny/outputs_{'causal' if is_causal else 'full'}.npz"))
    )
    weights = with_mask(toklip, is_causal)
    tokens, inner = run(weights, causal["vq_indices"], "semantic_tokens")
    encoder = inner["token_encoder"]
    close(at(encoder, "mapping/fc1"), want["vq_table_out"])
    close(at(encoder, "mapping"), want["vq_mapped"])
    block = encoder["stack"]["blocks_0"]
    close(at(block, "norm1"), want["block0_norm1"])
    close(at(block, "attn"), want["block0_attn"])
    close(at(block, "mlp"), want["block0_mlp"])
    for i in range(3):
        close(at(encoder, f"stack/blocks_{i}"), want[f"block{i}"])
    close(tokens, want["tokens"])
    feature, inner = run(weights, causal["vq_indices"], "image_features")
    pool = inner["token_encoder"]["pool"]
    close(at(pool, "kv").reshape(4, 16, 128), want["pool_kv"])
    close(at(pool, "proj"), want["pool_attn"])
    close(at(pool, "mlp"), want["pool_mlp"])
    close(feature, want["image_feature"])
    close(l2_normalize(feature), want["image_feature_norm"])


def text_is_recorded(weights, token_ids, want):
    feature, inner = run(weights, token_ids, "text_features")
    tower = inner["text_tower"]
    for i in range(2):
        close(at(tower, f"stack/blocks_{i}"), want[f"text_block{i}"])
    close(at(tower, "norm"), want["text_tokens"])
    close(feature, want["text_feature"])
    return l2_normalize(feature)


def test_text_tower_and_logits_equal_the_recorded_ones(toklip, inputs, golden):
    want = np.load(golden("toklip_tiny/outputs_causal.npz"))
    text = text_is_recorded(toklip, inputs["token_ids"], want)
    close(text, want["text_feature_norm"])
    image = jnp.asarray(want["image_feature_norm"])
    scale, bias = (jnp.asarray(toklip.params[f"logit_{name}"]) for name in ("scale", "bias"))
    close(similarity(image, text, scale, bias), want["image_logits"])
    close(similarity(image, text, scale, bias).T, want["text_logits"])


def test_teacher_equals_the_recorded_stages(teacher, inputs, golden):
    want = np.load(golden("teacher_tiny/outputs.npz"))
    feature, inner = run(teacher, inputs["image_nhwc"], "image_features")
    tower = inner["image_tower"]
    close(at(tower, "patch_embed").reshape(4, 16, 64), want["patch_embed"])
    for i in range(3):
        close(at(tower, f"stack/blocks_{i}"), want[f"block{i}"])
    close(at(tower, "norm"), want["tokens"])
    close(feature, want["image_feature"])
    text_is_recorded(teacher, inputs["token_ids"], want)


@pytest.mark.parametrize("name", ["vq_tiny", "vq_tiny_8"])
@pytest.mark.parametrize("is_l2_normalised", [True, False])
def test_vq_ids_and_images_equal_the_recorded_ones(name, is_l2_normalised, golden):
    want = np.load(golden(f"{name}/outputs.npz"))
    images = np.load(golden(f"{name}/inputs.npz"))["image_nhwc"]
    weights = read_weights(
        golden(f"{name}/checkpoint.safetensors"), is_l2_normalised=is_l2_normalised
    )
    prefix = "" if is_l2_normalised else "nol2_"
    out, inner = run(weights, images)
    np.testing.assert_array_equal(out.ids, want[f"{prefix}indices"].reshape(4, -1))
    assert want[f"{prefix}margin"].min() > 2e-3  # so that equal ids are no luck
    close(at(inner, "encoder"), nhwc(want["encoder_out"]))
    close(at(inner, "quant_conv"), nhwc(want["prequant"]))
    vectors, _ = run(weights, out.ids, "code_vectors")
    close(vectors, nhwc(want[f"{prefix}quant"]).reshape(vectors.shape))
    image, _ = run(weights, np.asarray(out.ids[:1]), "detokenize")
    close(image, nhwc(want[f"{prefix}decoded_code_image0"]), VQ_ATOL)
    if is_l2_normalised:
        close(out.images, nhwc(want["decoded"]), VQ_ATOL)
        vq_levels_are_recorded(inner, want)


def vq_levels_are_recorded(inner, want):
    levels = sum(f"enc_level{i}_stats" in want for i in range(9))
    for half, short in (("encoder", "enc"), ("decoder", "dec")):
        stages = {f"{short}_mid": "mid_res_1"}
        for i in range(levels):
            last = [n for n in inner[half] if n.startswith(f"levels_{i}_") and n != "__call__"]
            stages[f"{short}_level{i}"] = end_of_level(last, i)
        for recorded, path in stages.items():
            got = at(inner[half], path)
            close(stats_of(got), want[f"{recorded}_stats"], VQ_ATOL)
            if recorded in want:
                close(got, nhwc(want[recorded]), VQ_ATOL)


@pytest.mark.parametrize("name", ["vq_tiny", "vq_tiny_8"])
@pytest.mark.parametrize("prefix", ["", "no_l2_"])
def test_vq_training_losses_equal_the_recorded_ones(name, prefix, golden):
    want = json.loads(golden(f"{name}/train_losses.json").read_text())[f"{prefix}ratio_0.1"]
    images = np.load(golden(f"{name}/inputs.npz"))["image_nhwc"]
    weights = read_weights(golden(f"{name}/checkpoint.safetensors"), is_l2_normalised=not prefix)
    out, _ = run(weights, images)
    np.testing.assert_allclose(out.losses["codebook"].mean(), want["vq_loss"], 1e-5)
    np.testing.assert_allclose(0.25 * out.losses["commitment"].mean(), want["commit_loss"], 1e-5)
    between, _ = run(weights, out.latents, "between_rows")
    np.testing.assert_allclose(0.1 * between["entropy"], want["entropy_loss"], 1e-5)
    # The recorded figure counts the usage buffer's initial zeros as a use of code 0.
    used = np.union1d(np.asarray(out.ids), [0])
    assert len(used) / weights.config.codebook_size == want["codebook_usage"]
