"""Hugging Face's Janus holds LlamaGen's tokenizer under other names: both recordings are met."""

import dataclasses
import json

import numpy as np
import pytest

from tests.models.stages import at, close, nhwc, run
from tests.models.vq_recordings import (
    LEVEL_ATOL,
    ROW_ATOL,
    decoder_is_recorded,
    encoder_is_recorded,
    flat,
    recording,
    rows,
    ties_are_decided_as_recorded,
)
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.llamagen.janus import from_janus
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

FILE = "janus_tiny/checkpoint.safetensors"


@pytest.fixture(scope="module")
def recorded(golden):
    return recording(golden, "janus_tiny")


@pytest.fixture(scope="module")
def weights(golden):
    """At unit length, as the original tokenizer is used."""
    return read_weights(golden(FILE))


@pytest.fixture(scope="module")
def raw(golden):
    """Raw rows, as transformers' `encode` compares them."""
    return read_weights(golden(FILE), is_l2_normalised=False)


def test_its_names_become_llamagens(golden, weights):
    tensors = read_checkpoint(golden(FILE)).tensors
    renamed = json.loads(golden("janus_tiny/rename_to_llamagen.json").read_text())
    got = from_janus(tensors)
    assert {name: id(x) for name, x in got.items()} == {
        renamed[name]: id(x) for name, x in tensors.items()
    }
    sizes = {"channels": 32, "multipliers": (1, 1, 1, 1, 2), "z_channels": 32}
    assert weights.config == LlamaGenConfig(512, 8, **sizes)


def test_llamagens_ids_are_the_default(weights, recorded):
    want, images, _ = recorded
    out, inner = run(weights, images)
    np.testing.assert_array_equal(out.ids, flat(want["llamagen_l2_indices"]))
    np.testing.assert_array_equal(out.ids, flat(want["rownorm_indices"]))
    assert min(want["llamagen_l2_margin"].min(), want["rownorm_margin"].min()) > 4e-3
    encoder_is_recorded(inner, want)
    vectors, _ = run(weights, out.ids, "code_vectors")
    close(vectors, rows(want["rownorm_quant"]), ROW_ATOL)
    image, _ = run(weights, np.asarray(out.ids[:1]), "detokenize")
    for name in ("llamagen_l2_decoded", "rownorm_decoded"):
        close(image, nhwc(want[name]), LEVEL_ATOL)


def test_raw_rows_give_the_ids_of_transformers(raw, weights, recorded):
    want, images, config = recorded
    out, inner = run(raw, images)
    np.testing.assert_array_equal(out.ids, flat(want["indices"]))
    assert want["margin"].min() > 1.5e-2
    differing = config["llamagen_check"]["raw_rows_vs_llamagen_ids_differ"]
    assert np.sum(np.asarray(out.ids) != flat(want["llamagen_l2_indices"])) == differing
    vectors, _ = run(raw, out.ids, "code_vectors")
    close(vectors, rows(want["quant"]), ROW_ATOL)
    loss = out.losses["codebook"].mean() + config["beta"] * out.losses["commitment"].mean()
    np.testing.assert_allclose(loss, config["embedding_loss"], 1e-5)
    # transformers decodes rows at unit length, whatever ids they are of.
    entries, _ = run(weights, out.ids, "code_vectors")
    close(entries, rows(want["codebook_entry"]), ROW_ATOL)
    images, inner = run(weights, out.ids, "detokenize")
    close(images, nhwc(want["decoded"]), LEVEL_ATOL)
    decoder_is_recorded(inner, want, counts_from_lowest=True)


def test_normalised_rows_and_raw_latents_have_the_recorded_loss(raw, recorded):
    want, images, config = recorded
    codebook = np.asarray(raw.params["codebook"], np.float32)
    unit = codebook / np.linalg.norm(codebook, axis=1, keepdims=True)
    changed = dataclasses.replace(raw, params=raw.params | {"codebook": unit})
    out, inner = run(changed, images)
    np.testing.assert_array_equal(out.ids, flat(want["rownorm_indices"]))
    close(at(inner, "quant_conv").reshape(out.latents.shape), out.latents)
    loss = out.losses["codebook"].mean() + config["beta"] * out.losses["commitment"].mean()
    np.testing.assert_allclose(loss, config["embedding_loss_rownorm"], 1e-5)


def test_a_tie_goes_to_the_lowest_id(raw, recorded):
    want, images, config = recorded
    ties_are_decided_as_recorded(raw, images, want, config["tie_break"])
