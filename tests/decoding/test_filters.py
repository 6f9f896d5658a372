"""Filters of logits against LlamaGen's recorded ones, and the draws that they lead to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.decoding import Sampling, draw, filter_logits, guide, row_keys


def test_kept_values_and_probabilities_equal_the_recorded_ones(golden):
    arrays = np.load(golden("sampling/sampling.npz"))
    cases = json.loads(golden("sampling/cases.json").read_text())
    assert len(cases) == 140
    for case in cases:
        got = filter_logits(
            jnp.asarray(arrays["logits"]), case["temperature"], case["top_k"], case["top_p"]
        )
        settled = ~np.asarray(case["cut_inside_tie"])  # which of equal values stay is open
        keep = arrays[f"keep_{case['i']}"].astype(bool)
        np.testing.assert_array_equal(np.isfinite(got)[settled], keep[settled], str(case))
        assert (np.isfinite(got).sum(1) == keep.sum(1)).all(), case
        probabilities = np.asarray(jax.nn.softmax(got, axis=-1))
        want = arrays[f"probs_{case['i']}"]
        np.testing.assert_allclose(probabilities[settled], want[settled], atol=1e-6)


def test_draws_have_the_distribution_of_the_filtered_logits():
    logits, count = jnp.asarray([0.0, 1.0, 2.0, -1.0, 1.5]), 20_000
    keys = row_keys(jax.random.key(3), jnp.arange(count))
    for sampling in (Sampling(), Sampling(0.7), Sampling(top_k=3), Sampling(top_p=0.8)):
        ids = draw(jnp.broadcast_to(logits, (count, 5)), keys, sampling)
        counts = np.bincount(np.asarray(ids), minlength=5)
        kept = filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p)
        expected = count * np.asarray(jax.nn.softmax(kept))
        assert not counts[expected == 0].any()
        counts, expected = counts[expected > 0], expected[expected > 0]
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 18.47, sampling  # 4 degrees of freedom, level 0.001


def test_a_draw_depends_on_its_index_and_not_on_the_batch():
    logits = jax.random.normal(jax.random.key(0), (6, 50))
    keys = row_keys(jax.random.key(1), jnp.arange(6))
    whole = draw(logits, keys, Sampling())
    part = draw(logits[4:], row_keys(jax.random.key(1), jnp.arange(4, 6)), Sampling())
    np.testing.assert_array_equal(whole[4:], part)


def test_guidance_ends_after_its_interval():
    logits = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    sampling = Sampling(cfg_scale=3.0, cfg_interval=5)
    guided = guide(logits[:1], logits[1:], 3.0)
    np.testing.assert_array_equal(sampling.guided(logits, 6), guided)
    np.testing.assert_array_equal(sampling.guided(logits, 7), logits[:1])


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"cfg_interval": -2},
        {"cfg_scale": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        Sampling(**changes)
