"""Frechet: sums that merge, NumPy's covariance, and the distance that SciPy's sqrtm gives."""

import json

import numpy as np
import pytest
import scipy.linalg

from toklip_jax.metrics import Frechet, Gaussian, frechet_distance
from toklip_jax.metrics import frechet as module

RANDOM = np.random.default_rng(0)


def features(count, dim=12, seed=0):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, dim)) @ random.normal(size=(dim, dim))
    return (mixed + 3 * random.normal(size=dim)).astype(np.float32)


def gaussian(x):
    return Frechet.from_features(x).statistics()


@pytest.mark.parametrize("sizes", [[30], [7, 23], [1, 4, 25]])
def test_statistics_are_numpys_however_the_features_are_split(sizes, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 8)
    x, state = features(30), Frechet.empty(12)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        state = state.merge(Frechet.from_features(part))
    assert state.count == 30
    mean, covariance = state.compute()
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(exact, rowvar=False), rtol=1e-10)
    assert covariance.dtype == np.float64


def test_padding_is_not_counted_even_if_it_is_nan():
    x = features(10)
    padded = np.concatenate([x, np.full((3, 12), np.nan, np.float32)])
    state = Frechet.from_features(padded, np.arange(13) < 10)
    want = Frechet.from_features(x)
    assert state.count == want.count == 10
    np.testing.assert_array_equal(state.outer, want.outer)


def test_raw_sums_in_float64_survive_a_mean_of_a_thousand_deviations():
    """Inception's features have a mean of about one deviation; the loss is its square."""
    exact = RANDOM.normal(size=(5000, 8)) + 1000.0
    got = gaussian(exact).covariance
    want = np.cov(exact, rowvar=False)
    assert np.abs(got - want).max() < 1e-8 * np.abs(want).max()


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        Frechet.from_features(features(1)).statistics()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(100, 80), pytest.param(9, 80, id="rank below d"), pytest.param(7, 5, id="both below d")],
)
def test_the_distance_is_that_of_scipys_square_root(ours, theirs):
    a, b = gaussian(features(ours, seed=1)), gaussian(features(theirs, seed=2))
    product = a.covariance @ b.covariance
    # A product without full rank has a root, which SciPy finds if its zeros are nudged.
    nudge = 0 if min(ours, theirs) > 12 else 1e-13 * np.eye(12)
    root = scipy.linalg.sqrtm(product + nudge).real
    want = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    rtol = 1e-12 if min(ours, theirs) > 12 else 1e-6  # the nudge's
    assert frechet_distance(a, b) == pytest.approx(want, rel=rtol)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_distances_equal_the_recorded_ones(golden):
    """Singular covariances have a distance that is stable to 1e-7 only, equal sets one of 0."""
    arrays = np.load(golden("fid/frechet.npz"))
    results = json.loads(golden("fid/results.json").read_text())["frechet"]
    singular = ("fewer_samples_than_features", "near_singular")
    for name, record in results.items():
        a, b = (gaussian(arrays[f"{name}_{side}"]) for side in "ab")
        want = arrays[f"{name}_sigma_a"]
        np.testing.assert_allclose(a.covariance, want, rtol=1e-9, atol=1e-12, err_msg=name)
        tolerance = {"rel": 1e-7 if name in singular else 1e-9, "abs": 1e-6}
        if name != "identical":
            tolerance["abs"] = 0
        assert frechet_distance(a, b) == pytest.approx(record["frechet"], **tolerance), name


def test_diagonal_gaussians_have_a_closed_form():
    mean, deviation = RANDOM.normal(size=(2, 20)), RANDOM.uniform(0.1, 2, (2, 20))
    a, b = (Gaussian(m, np.diag(s**2)) for m, s in zip(mean, deviation, strict=True))
    want = np.sum((mean[0] - mean[1]) ** 2 + (deviation[0] - deviation[1]) ** 2)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("count", [5, 200])
def test_a_set_is_at_distance_zero_from_itself(count):
    x = gaussian(features(count))
    assert 0 <= frechet_distance(x, x) < 1e-7 * np.trace(x.covariance)


def test_constant_features_differ_in_their_means_alone():
    still = Gaussian(np.ones(3), np.zeros((3, 3)))
    assert frechet_distance(still, still) == 0
    moved = Gaussian(np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    assert frechet_distance(still, moved) == pytest.approx(3 + 6)


def test_features_that_are_not_finite_give_nan_and_other_dimensions_an_error():
    x = features(20)
    broken = x.copy()
    broken[3, 4] = np.inf
    assert np.isnan(frechet_distance(gaussian(x), gaussian(broken)))
    with pytest.raises(ValueError, match="one dimension, got 12 and 5"):
        frechet_distance(gaussian(x), gaussian(features(20, dim=5)))
