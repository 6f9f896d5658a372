"""Linear probe and nearest neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from toklip_jax.evaluation.probe import fit_logistic_regression, knn, linear_probe


def blobs(spread, n=300, seed=0):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(4, 6)) * [1, 1, 1, 100, 0.01, 1]
    labels = random.integers(0, 4, n)
    scale = np.array([1, 1, 1, 100, 0.01, 1])
    return (centres[labels] + spread * scale * random.normal(size=(n, 6))), labels


def test_separable_classes_are_told_apart():
    train, test = blobs(0.1), blobs(0.1, seed=1)
    assert linear_probe(*train, *test).value == 1.0
    assert knn(*train, *test).value > 0.95


def test_meaningless_features_stay_at_chance():
    random = np.random.default_rng(0)
    noise, labels = random.normal(size=(600, 6)), random.integers(0, 4, 600)
    for learner in (linear_probe, knn):
        estimate = learner(noise[:300], labels[:300], noise[300:], labels[300:])
        assert abs(estimate.value - 0.25) < 4 * estimate.error


def test_the_probe_is_deterministic_and_blind_to_scale_and_shift():
    (x, y), (test_x, test_y) = blobs(1.0), blobs(1.0, seed=1)
    first = linear_probe(x, y, test_x, test_y)
    assert linear_probe(x, y, test_x, test_y) == first
    assert linear_probe(1000 * x - 7, y, 1000 * test_x - 7, test_y) == first
    assert 0.5 < first.value < 1


def test_the_fit_is_a_stationary_point_of_the_regularised_loss():
    x, y = blobs(1.0)
    x = jnp.asarray((x - x.mean(0)) / x.std(0), jnp.float32)
    y = jnp.asarray(y)
    weights = fit_logistic_regression(x, y, 4, l2=0.01, max_steps=200)

    def loss(weights):
        logits = x @ weights["weight"] + weights["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean() + 0.005 * jnp.sum(weights["weight"] ** 2)

    assert float(optax.tree.norm(jax.grad(loss)(weights))) < 1e-4
    assert float(loss(weights)) < np.log(4) * 0.8


def test_a_class_never_trained_on_counts_as_wrong():
    x, y = blobs(0.1)
    seen = y < 3
    for learner in (linear_probe, knn):
        assert learner(x[seen], y[seen], x, y).value == pytest.approx(np.mean(seen), abs=0.02)


def test_a_constant_feature_does_no_harm():
    (x, y), (test_x, test_y) = blobs(0.1), blobs(0.1, seed=1)
    constant = np.ones((300, 1))
    with_it = linear_probe(np.hstack([x, constant]), y, np.hstack([test_x, constant]), test_y)
    assert with_it.value == 1.0
