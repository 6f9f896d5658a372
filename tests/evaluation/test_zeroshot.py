"""The zero-shot classifier against the recorded one."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.evaluation.zeroshot import accuracy_in_blocks, build_classifier, classify
from toklip_jax.metrics import TopK

TEMPLATES = ("a photo of a {}.", "{}", "a drawing of {}")
NAMES = ("cat", "dog", "great white shark", "tench", "ray")


def tokenize(texts):
    return np.array([[len(text), sum(map(ord, text)) % 97, ord(text[0])] for text in texts])


def encode_text(ids):
    random = np.random.default_rng(0)
    return jnp.tanh(jnp.asarray(ids / [30, 97, 120]) @ random.normal(size=(3, 8))).astype("float32")


@pytest.fixture
def recorded(golden):
    config = json.loads(golden("zeroshot/config.json").read_text())
    return config, np.load(golden("zeroshot/zeroshot.npz"))


def test_top_k_counts_equal_the_recorded_ones(recorded):
    config, data = recorded
    counts = TopK.from_logits(data["logits"], data["target"], (1, 5))
    assert counts.hits.tolist() == [config["top1_correct"], config["top5_correct"]]
    assert counts.count == config["n"]


def test_classifier_logits_and_counts_equal_the_recorded_ones_through_the_model(golden, recorded):
    config, data = recorded
    toklip = toklip_jax.load(golden("toklip_tiny/checkpoint.pt"), num_heads=4, text_num_heads=4)
    ids = dict(zip(config["texts"], data["token_ids"].reshape(35, 16), strict=True))
    classifier = build_classifier(
        lambda token_ids: toklip.text_features(token_ids, normalize=False),
        config["classes"],
        config["templates"],
        lambda texts: np.stack([ids[text] for text in texts]),
        classes_per_batch=config["num_classes_per_batch"],
    )
    for name in ("classifier", "classifier_unbatched", "classifier_legacy"):
        np.testing.assert_allclose(classifier, data[name], atol=2e-5)
    images = np.moveaxis(data["image_nchw"], 1, -1)
    features = toklip.image_features(images=images)
    # Logits are 100 times features that agree to 2e-5.
    np.testing.assert_allclose(classify(features, classifier), data["logits"], atol=2e-3)
    counts, _ = accuracy_in_blocks(features, data["target"], classifier)
    assert counts.hits.tolist() == [config["top1_correct"], config["top5_correct"]]


@pytest.mark.parametrize("size", [1, 2, 3, 99])
def test_batches_of_classes_change_nothing(size):
    shapes = set()

    def encode(ids):
        shapes.add(ids.shape)
        return encode_text(ids)

    classifier = build_classifier(encode, NAMES, TEMPLATES, tokenize, classes_per_batch=size)
    expected = build_classifier(encode_text, NAMES, TEMPLATES, tokenize)
    np.testing.assert_allclose(classifier, expected, atol=1e-6)
    assert len(shapes) == 1  # the encoder compiles once


def test_a_column_is_the_normalised_mean_of_normalised_prompts():
    classifier = build_classifier(encode_text, NAMES, TEMPLATES, tokenize)
    features = np.array(encode_text(tokenize([t.format(NAMES[2]) for t in TEMPLATES])))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    mean = features.mean(axis=0)
    np.testing.assert_allclose(classifier[:, 2], mean / np.linalg.norm(mean), atol=1e-6)


def test_logits_do_not_depend_on_the_features_length():
    classifier = build_classifier(encode_text, NAMES, TEMPLATES, tokenize)
    features = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    logits = classify(features, classifier, scale=10.0)
    np.testing.assert_allclose(classify(7 * features, classifier, scale=10.0), logits, atol=1e-5)
    assert float(jnp.max(jnp.abs(logits))) <= 10.0


def test_a_template_without_a_place_is_refused():
    with pytest.raises(ValueError, match="where the class name goes, got 'a photo'"):
        build_classifier(encode_text, NAMES, ("a photo",), tokenize)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="at least one class name"):
        build_classifier(encode_text, (), TEMPLATES, tokenize)
