"""Chameleon's VQ tokenizer equals its recordings; bounds as their README says."""

import dataclasses

import numpy as np
import PIL.Image
import pytest

import toklip_jax
from tests.models.stages import at, close, nhwc, run
from tests.models.vq_recordings import (
    LEVEL_ATOL,
    ROW_ATOL,
    encoder_is_recorded,
    flat,
    gradients_are_finite,
    images_of,
    recording,
    rows,
    ties_are_decided_as_recorded,
)
from toklip_jax.data.images import shortest_side_crop
from toklip_jax.files import write_safetensors
from toklip_jax.models.chameleon.config import ChameleonConfig
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def recorded(golden):
    return recording(golden, "chameleon_tiny")


@pytest.fixture(scope="module")
def original(golden, tmp_path_factory):
    """The path of the whole tokenizer: Hugging Face's file, and the decoder that it leaves out."""
    files = ("checkpoint.safetensors", "decoder_original.safetensors")
    parts = [read_checkpoint(golden(f"chameleon_tiny/{file}")).tensors for file in files]
    path = tmp_path_factory.mktemp("chameleon") / "vqgan.safetensors"
    write_safetensors(path, parts[0] | parts[1])
    return path


@pytest.fixture(scope="module")
def weights(original):
    return read_weights(original)


def test_its_sizes_are_told_by_its_shapes(weights, golden):
    sizes = {"channels": 32, "multipliers": (1, 1, 1, 1, 2), "z_channels": 32}
    assert weights.config == ChameleonConfig(512, 32, **sizes)
    alone = read_weights(golden("chameleon_tiny/checkpoint.safetensors")).config
    assert alone == dataclasses.replace(weights.config, has_decoder=False)


def test_every_recorded_stage_is_met(weights, recorded):
    want, images, config = recorded
    out, inner = run(weights, images)
    np.testing.assert_array_equal(out.ids, flat(want["indices"]))
    assert want["margin"].min() > 4e-2  # so that equal ids are no luck
    encoder_is_recorded(inner, want)
    close(at(inner, "quant_conv").reshape(out.latents.shape), out.latents)
    close(out.images, nhwc(want["decoded"]), LEVEL_ATOL)
    vectors, _ = run(weights, out.ids, "code_vectors")
    close(vectors, rows(want["codebook_entry"]), ROW_ATOL)
    close(vectors, rows(want["quant"]), ROW_ATOL)
    image, _ = run(weights, np.asarray(out.ids[:1]), "detokenize")
    close(image, nhwc(want["decoded_code"]), LEVEL_ATOL)
    loss = out.losses["codebook"].mean() + config["beta"] * out.losses["commitment"].mean()
    np.testing.assert_allclose(loss, config["embedding_loss"], 1e-5)


def test_the_file_without_a_decoder_tokenizes_and_says_why_it_does_not_decode(golden, recorded):
    want, _, _ = recorded
    vq = toklip_jax.load(golden("chameleon_tiny/checkpoint.safetensors"))
    pictures = np.load(golden("chameleon_tiny/inputs.npz"))["image_u8_nhwc"]
    ids = vq.tokenize(pictures)
    np.testing.assert_array_equal(ids, flat(want["indices"]))
    close(vq.code_vectors(ids), rows(want["codebook_entry"]), ROW_ATOL)
    with pytest.raises(ValueError, match="expected weights with a decoder, got an encoder's alone"):
        vq.detokenize(ids)


def test_a_tie_goes_to_the_lowest_id(weights, recorded):
    want, images, config = recorded
    ties_are_decided_as_recorded(weights, images, want, config["tie_break"])


def test_both_recipes_of_preprocessing_give_the_recorded_ids(weights, golden):
    """The original's pixels are its pictures' in [-1, 1]; Hugging Face's reach to 0.989 only."""
    want = np.load(golden("chameleon_tiny/preprocess.npz"))
    pixels = images_of(want["original_u8"][None])
    close(pixels, nhwc(want["original_pixel_values"]), ROW_ATOL)
    for name, images in {
        "original": pixels,
        "hf": nhwc(want["hf_pixel_values"]),
    }.items():
        ids, _ = run(weights, images, "tokenize")
        np.testing.assert_array_equal(ids, flat(want[f"{name}_indices"][None]))


def test_our_crop_covers_what_the_original_crops_and_differs_in_the_filter_alone(golden):
    """Shorter side, then the centre: the same pixels, here bicubic and there Lanczos."""
    want = np.load(golden("chameleon_tiny/preprocess.npz"))
    picture = PIL.Image.fromarray(want["source_u8"])
    ours = shortest_side_crop(picture, 64).astype(int)
    difference = np.abs(ours - want["original_u8"])
    assert difference.mean() < 1
    resized = picture.resize((96, 64), PIL.Image.Resampling.LANCZOS)
    theirs = np.asarray(resized.crop((16, 0, 80, 64)))
    np.testing.assert_array_equal(theirs, want["original_u8"])


@pytest.mark.plain
def test_gradients_are_finite(weights, recorded):
    gradients_are_finite(weights, recorded[1][:2, :32, :32])
