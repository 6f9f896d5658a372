"""Weights directories written before the package was restructured: format 1.

`format_1/` was written by commit eab34d9: TokLIP with scanned layers, carried tensors and a text
tokenizer; a teacher; a VQ tokenizer in float16. `outputs.npz` is what that commit computed.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

import toklip_jax
from toklip_jax.models.registry import build_model
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.weights import load_weights, place_params, save_weights

FORMAT_1 = pathlib.Path(__file__).parent / "format_1"
ATOL = 1e-5  # float32 sums, which processors order in their own ways; images 1e-4


@pytest.fixture(scope="module")
def want():
    return np.load(FORMAT_1 / "outputs.npz")


def test_toklip_loads_and_computes_what_it_did(want):
    toklip = toklip_jax.load(FORMAT_1 / "toklip")
    ids = toklip.tokenize(want["images"])
    np.testing.assert_array_equal(ids, want["toklip_ids"])
    features, text = toklip.image_features(ids=ids), toklip.text_features(want["token_ids"])
    results = {
        "toklip_tokens": toklip.semantic_tokens(ids),
        "toklip_features": features,
        "toklip_text_of_ids": text,
        "toklip_text": toklip.text_features(["a dog", "two cats"]),
        "toklip_similarity": toklip.similarity(features, text),
    }
    for name, got in results.items():
        np.testing.assert_allclose(got, want[name], atol=ATOL, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(toklip.detokenize(ids), want["toklip_images"], atol=1e-4)


def test_a_vq_tokenizer_loads_and_computes_what_it_did(want):
    vq = toklip_jax.load(FORMAT_1 / "vq")
    ids = vq.tokenize(want["images"])
    np.testing.assert_array_equal(ids, want["vq_ids"])
    np.testing.assert_allclose(vq.detokenize(ids), want["vq_images"], atol=1e-4)


def test_a_teacher_loads_and_computes_what_it_did(want):
    weights = load_weights(FORMAT_1 / "teacher")
    model = build_model(weights.config, Compute(is_scanned=weights.is_scanned))
    images, params = to_unit_range(want["images"]), place_params(weights)
    with jax.default_matmul_precision("highest"):
        image, text = jax.jit(model.apply)({"params": params}, images, want["token_ids"])
    np.testing.assert_allclose(image, want["teacher_image"], atol=ATOL, rtol=1e-5)
    np.testing.assert_allclose(text, want["teacher_text"], atol=ATOL, rtol=1e-5)


@pytest.mark.parametrize("name", ["toklip", "teacher", "vq"])
def test_their_tensors_are_written_again_byte_by_byte(name, tmp_path):
    """So paths, order, types and config fields are those of format 1 still."""
    save_weights(tmp_path / name, load_weights(FORMAT_1 / name))
    files = sorted(path.name for path in (FORMAT_1 / name).iterdir())
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == files
    for file in files:
        written, kept = ((directory / name / file) for directory in (tmp_path, FORMAT_1))
        if file == "toklip.json":
            expect_within(json.loads(kept.read_text()), json.loads(written.read_text()))
        else:
            assert written.read_bytes() == kept.read_bytes(), file


def expect_within(old, new):
    """A config may gain fields, whose defaults are what the model was before."""
    assert new.keys() >= old.keys()
    for name, value in old.items():
        if isinstance(value, dict):
            expect_within(value, new[name])
        else:
            assert new[name] == value, name
