"""Recall@k, also against the recorded counts of the PyTorch implementation."""

import json

import numpy as np
import pytest

from toklip_jax.evaluation import retrieval
from toklip_jax.evaluation.retrieval import (
    nearest_keys,
    positives_from_labels,
    recall_at_k,
    reference_hits,
    retrieval_ranks,
)

KS = (1, 5, 10)
OWNERS = np.repeat(np.arange(50), 5)  # caption t belongs to image t // 5
SETS = ("random", "aligned", "ties")


@pytest.fixture
def recorded(golden):
    scores = np.load(golden("retrieval/scores.npz"))
    return scores, json.loads(golden("retrieval/results.json").read_text())["results"]


def image_to_text(scores):
    positives = positives_from_labels(np.arange(50), OWNERS)
    return recall_at_k(scores, np.eye(250, dtype=np.float32), positives, KS)


def text_to_image(scores, **options):
    positives = OWNERS[:, None]
    return recall_at_k(scores.T, np.eye(50, dtype=np.float32), positives, KS, **options)


def values(counts):
    return [estimate.value for estimate in counts.compute().values()]


@pytest.mark.parametrize("name", SETS)
def test_recalls_equal_the_correct_recorded_numbers(recorded, name):
    scores, results = recorded[0][f"scores_{name}"], recorded[1][name]["correct_image_retrieval"]
    assert values(image_to_text(scores)) == [results[f"txt_r{k}"] for k in KS]
    assert values(text_to_image(scores)) == [results[f"img_r{k}"] for k in KS]


@pytest.mark.parametrize("name", ["random", "aligned"])
def test_reference_count_equals_the_recorded_reference(recorded, name):
    scores, results = recorded[0][f"scores_{name}"], recorded[1][name]["reference"]
    counts = text_to_image(scores, reference_count=True)
    assert values(counts) == [results[f"img_r{k}"] for k in KS]


def test_reference_count_of_recorded_lists_equals_the_recorded_reference_under_ties(recorded):
    # The reference leaves the order of equal scores to torch, so its own top-10 lists are read.
    found = recorded[0]["topk_images_per_text_ties"] == OWNERS[:, None]  # [texts, 10]
    ranks = np.where(found.any(axis=1), found.argmax(axis=1), 50)
    results = recorded[1]["ties"]["reference"]
    assert (reference_hits(ranks, KS) / 250).tolist() == [results[f"img_r{k}"] for k in KS]


def test_the_reference_over_counts():
    ranks = np.zeros(20, np.int64)
    assert reference_hits(ranks, KS).tolist() == [21, 25, 30]


def test_reference_count_is_refused_where_the_reference_counts_correctly():
    with pytest.raises(ValueError, match="expected one right key a query"):
        recall_at_k(np.eye(2), np.eye(2), np.array([[0, 1], [1, -1]]), KS, reference_count=True)


@pytest.mark.parametrize("max_scores", [1, 100, 999, 2**23])
def test_blocks_change_nothing(monkeypatch, max_scores):
    random = np.random.default_rng(0)
    queries, keys = random.normal(size=(23, 8)), random.normal(size=(31, 8))
    positives = random.integers(0, 31, (23, 1))
    order = np.argsort(-(queries @ keys.T), axis=1, kind="stable")
    monkeypatch.setattr(retrieval, "MAX_SCORES", max_scores)
    assert np.array_equal(
        retrieval_ranks(queries, keys, positives), np.where(order == positives)[1]
    )
    assert np.array_equal(nearest_keys(queries, keys, 4)[0], order[:, :4])


def test_labels_that_occur_several_times_become_several_positives():
    positives = positives_from_labels(np.array([7, 3, 9]), np.array([3, 7, 3, 5]))
    assert positives.tolist() == [[1, -1], [0, 2], [-1, -1]]


def test_a_query_without_a_right_key_is_refused():
    with pytest.raises(ValueError, match=r"none for 1 of 2 .*first is query 1"):
        retrieval_ranks(np.eye(2), np.eye(2), np.array([[0], [-1]]))


def test_a_positive_beyond_the_keys_is_refused():
    with pytest.raises(ValueError, match="expected positives below 2"):
        retrieval_ranks(np.eye(2), np.eye(2), np.array([[0], [2]]))
