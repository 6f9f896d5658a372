"""Inception score, precision and recall against the public evaluators' recordings."""

import json

import numpy as np
import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.metrics import inception_score, precision_recall


@pytest.fixture(scope="module")
def results(golden):
    return json.loads(golden("fid/results.json").read_text())


def test_inception_score_equals_the_recorded_one(golden, results):
    arrays = np.load(golden("fid/inception_score.npz"))
    for name, scores in results["inception_score"].items():
        for split, want in scores.items():
            got = inception_score(arrays[name], int(split.removeprefix("split_")))
            if want is None:
                assert np.isnan(got)
            else:
                np.testing.assert_allclose(got, want, rtol=1e-9, err_msg=f"{name} {split}")


def test_precision_and_recall_equal_the_recorded_ones(golden, results):
    arrays = np.load(golden("fid/precision_recall.npz"))
    checked = 0
    for name, cases in results["precision_recall"].items():
        for case, record in cases.items():
            if not (case.startswith("k") and isinstance(record, dict)):
                continue
            real, samples = arrays[f"{name}_ref"], arrays[f"{name}_sample"]
            got = precision_recall(real, samples, int(case[1:]))
            want = record["float64"]
            assert (got.precision, got.recall) == (want["precision"], want["recall"]), name
            checked += 1
    assert checked >= 6


def test_sets_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="more than k"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)), 3)
    with pytest.raises(UserError, match="split_size"):
        inception_score(np.ones((3, 2)) / 2, 0)


def test_features_that_are_no_numbers_have_no_precision_and_recall():
    points = np.random.default_rng(0).normal(size=(9, 2))
    assert precision_recall(points, points).precision == 1
    broken = np.where(np.arange(9)[:, None] == 4, np.nan, points)
    for real, samples in ((points, broken), (broken, points)):
        assert np.isnan(precision_recall(real, samples)).all()
