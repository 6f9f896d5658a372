"""taming-transformers' VQGAN equals its recordings; bounds as their README says."""

import numpy as np
import pytest

from tests.models.stages import at, close, nhwc, run
from tests.models.vq_recordings import (
    LEVEL_ATOL,
    ROW_ATOL,
    decoder_is_recorded,
    encoder_is_recorded,
    flat,
    gradients_are_finite,
    images_of,
    recording,
    rows,
    ties_are_decided_as_recorded,
)
from toklip_jax.models.taming.config import TamingConfig
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def recorded(golden):
    return recording(golden, "taming_tiny")


@pytest.fixture(scope="module")
def weights(golden):
    return read_weights(golden("taming_tiny/checkpoint.safetensors"), family="taming")


def test_its_sizes_are_told_by_its_shapes(weights):
    sizes = {"channels": 32, "multipliers": (1, 1, 1, 1, 2), "z_channels": 32}
    assert weights.config == TamingConfig(512, 32, **sizes, attention_levels=(4,))


def test_every_recorded_stage_is_met(weights, recorded):
    want, images, config = recorded
    out, inner = run(weights, images)
    np.testing.assert_array_equal(out.ids, flat(want["indices"]))
    assert want["margin"].min() > 8e-3  # so that equal ids are no luck
    encoder_is_recorded(inner, want)
    close(at(inner, "quant_conv").reshape(out.latents.shape), out.latents)
    decoder_is_recorded(inner, want)
    close(out.images, nhwc(want["decoded"]), LEVEL_ATOL)
    vectors, _ = run(weights, out.ids, "code_vectors")
    close(vectors, rows(want["codebook_entry"]), ROW_ATOL)
    close(vectors, rows(want["quant"]), ROW_ATOL)  # z + (row - z) there
    image, _ = run(weights, np.asarray(out.ids[:1]), "detokenize")
    close(image, nhwc(want["decoded_code"]), LEVEL_ATOL)
    loss = out.losses["codebook"].mean() + config["beta"] * out.losses["commitment"].mean()
    for name in ("loss_legacy", "loss_not_legacy"):
        np.testing.assert_allclose(loss, config[name], 1e-5)


def test_a_picture_that_is_no_square_has_the_recorded_ids(weights, recorded, golden):
    want, _, _ = recorded
    picture = np.load(golden("taming_tiny/inputs.npz"))["nonsquare_u8_nhwc"]
    ids, _ = run(weights, images_of(picture), "tokenize")
    np.testing.assert_array_equal(ids, flat(want["nonsquare_indices"]))
    assert want["nonsquare_margin"].min() > 2e-3
    restored, _ = run(weights, ids, lambda model, ids: model.detokenize(ids, (8, 6)))
    assert restored.shape == picture.shape


def test_a_tie_goes_to_the_lowest_id(weights, recorded):
    want, images, config = recorded
    ties_are_decided_as_recorded(weights, images, want, config["tie_break"])


@pytest.mark.plain
def test_gradients_are_finite(weights, recorded):
    gradients_are_finite(weights, recorded[1][:2, :32, :32])
