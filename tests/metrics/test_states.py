"""Mean, TopK and CodeUsage: counted, masked, merged."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.metrics import CodeUsage, Mean, TopK, best_ranks, merge_across_hosts

RANDOM = np.random.default_rng(0)
SPLITS = [[20], [7, 13], [1, 4, 15], [5, 5, 5, 5]]


def merged(empty, parts):
    for part in parts:
        empty = empty.merge(part)
    return empty


def cut(array, sizes):
    return np.split(array, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("sizes", SPLITS)
def test_counts_do_not_depend_on_the_split(sizes):
    logits = RANDOM.normal(size=(20, 6)).astype(np.float32)
    labels = RANDOM.integers(0, 6, 20)
    ids = RANDOM.integers(0, 11, (20, 4))
    accuracy = merged(
        TopK.empty((1, 3)),
        [
            TopK.from_logits(x, y, (1, 3))
            for x, y in zip(cut(logits, sizes), cut(labels, sizes), strict=True)
        ],
    )
    usage = merged(CodeUsage.empty((11,)), [CodeUsage.from_ids(x, (11,)) for x in cut(ids, sizes)])
    assert accuracy.compute() == TopK.from_logits(logits, labels, (1, 3)).compute()
    assert usage.compute() == CodeUsage.from_ids(ids, (11,)).compute()


@pytest.mark.parametrize("sizes", SPLITS)
def test_mean_does_not_depend_on_the_split(sizes):
    values = RANDOM.normal(size=20).astype(np.float32)
    mean = merged(Mean.empty(), [Mean.from_values(part) for part in cut(values, sizes)]).compute()
    values = values.astype(np.float64)
    assert mean.value == pytest.approx(values.mean(), rel=1e-12)
    assert mean.error == pytest.approx(values.std(ddof=1) / math.sqrt(20), rel=1e-12)


def test_padding_is_not_counted():
    mask = np.array([True, True, False])
    padded_mean = Mean.from_values(np.array([1.0, 2.0, np.nan]), mask)
    assert padded_mean.compute() == Mean.from_values(np.array([1.0, 2.0])).compute()
    assert TopK.from_ranks(np.array([0, 3, 0]), (1,), mask).compute()[1].value == 0.5
    ids = np.array([[0, 1], [1, 1], [4, 4]])
    assert CodeUsage.from_ids(ids, (5,), mask).counts[0].tolist() == [1, 3, 0, 0, 0]


def test_weights_say_how_often_a_value_counts():
    values = np.array([1.0, 2.0, 5.0])
    repeated = Mean.from_values(np.array([1.0, 2.0, 2.0, 2.0]))
    assert Mean.from_values(values, np.array([1, 3, 0])).compute() == repeated.compute()


def test_nothing_counted_is_nan_not_an_error():
    assert math.isnan(Mean.empty().compute().value)
    assert math.isnan(TopK.empty((1,)).compute()[1].value)
    assert CodeUsage.empty((4,)).compute() == (0.0, 0.0)


def test_error_of_a_share_is_binomial():
    estimate = TopK.from_ranks(np.array([0, 0, 0, 9]), (1,)).compute()[1]
    assert estimate == (0.75, math.sqrt(0.75 * 0.25 / 4))


def test_states_of_different_depths_do_not_merge():
    with pytest.raises(ValueError, match=r"static|metadata|Mismatch"):
        TopK.empty((1,)).merge(TopK.empty((1, 5)))


def test_ties_rank_by_the_lowest_index():
    scores = np.array([[1.0, 2.0, 2.0, 0.0]] * 3, np.float32)
    ranks = best_ranks(jnp.asarray(scores), jnp.asarray(np.array([[1], [2], [3]])))
    assert ranks.tolist() == [0, 1, 3]


def test_the_best_of_several_right_answers_counts():
    scores = np.array([[1.0, 5.0, 3.0, 3.0]] * 3, np.float32)
    positives = np.array([[0, 3], [2, 3], [1, -1]])
    assert best_ranks(jnp.asarray(scores), jnp.asarray(positives)).tolist() == [2, 1, 0]


def test_a_diverged_or_unknown_answer_ranks_last():
    scores = np.array([[np.nan, np.nan], [1.0, 0.0]], np.float32)
    assert best_ranks(jnp.asarray(scores), jnp.asarray(np.array([[0], [7]]))).tolist() == [2, 2]


def test_perplexity_of_equally_used_codes_is_their_number():
    summary = CodeUsage.from_ids(np.array([[0, 1, 2, 3]]), (16,)).compute()
    assert summary.usage == 0.25
    assert summary.perplexity == pytest.approx(4)


def test_an_id_outside_the_codebook_is_refused():
    with pytest.raises(ValueError, match=r"expected ids in \[0, 4\), got 1 to 4"):
        CodeUsage.from_ids(np.array([[1, 4]]), (4,))


def test_codebooks_are_counted_apart():
    ids = np.array([[[0, 4], [1, 4]], [[0, 2], [1, 3]]])  # [b, n, q]
    usage = CodeUsage.from_ids(ids, (2, 5))
    assert [counts.tolist() for counts in usage.counts] == [[2, 2], [0, 0, 1, 1, 2]]
    first, second = usage.per_codebook()
    assert (first.usage, first.perplexity) == (1.0, pytest.approx(2))
    assert second == CodeUsage.from_ids(ids[..., 1], (5,)).compute()
    both = usage.compute()
    assert both.usage == 5 / 7
    assert both.perplexity == pytest.approx(math.sqrt(first.perplexity * second.perplexity))


def test_codebooks_merge_apart_and_padding_is_not_counted():
    ids = RANDOM.integers(0, (3, 7), (20, 4, 2))
    parts = [CodeUsage.from_ids(part, (3, 7)) for part in cut(ids, [7, 13])]
    whole = CodeUsage.from_ids(ids, (3, 7))
    assert merged(CodeUsage.empty((3, 7)), parts).compute() == whole.compute()
    mask = np.arange(20) < 7
    assert CodeUsage.from_ids(ids, (3, 7), mask).compute() == parts[0].compute()
    assert CodeUsage.empty((3, 7)).compute() == (0.0, 0.0)


@pytest.mark.parametrize(("shape", "sizes"), [((2, 4), (3, 7)), ((2, 4, 2), (7,))])
def test_ids_of_another_number_of_codebooks_are_refused(shape, sizes):
    with pytest.raises(ValueError, match=r"expected ids of . codebooks, got \[2, 4"):
        CodeUsage.from_ids(np.zeros(shape, np.int32), sizes)


def test_an_id_fits_its_own_codebook_only():
    with pytest.raises(ValueError, match=r"expected ids in \[0, 3\), got 0 to 5"):
        CodeUsage.from_ids(np.array([[[5, 0], [0, 0]]]), (3, 7))


def test_one_process_merges_to_itself():
    state = TopK.from_ranks(np.array([0, 1]), (1,))
    assert merge_across_hosts(state) is state


WORKER = """
import sys, jax, numpy as np
rank, port = map(int, sys.argv[1:])
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
from toklip_jax.metrics import CodeUsage, Mean, TopK, merge_across_hosts
mean = merge_across_hosts(Mean.from_values(np.array([0.1, 1e9 + 1 / 3])[rank:rank + 1]))
hits = merge_across_hosts(TopK.from_ranks(np.arange(3 + rank), (1, 3)))
huge = merge_across_hosts(CodeUsage(counts=(np.array([2**40, rank]),)))
print(repr(mean.total), mean.weight, hits.hits.tolist(), hits.count, huge.counts[0].tolist())
"""


@pytest.mark.slow
def test_two_processes_merge_to_the_sum_without_rounding(run_on_two_hosts):
    expected = f"{0.1 + (1e9 + 1 / 3)!r} 2.0 [2, 6] 7 [{2**41}, 1]\n"
    outputs = [output for _, output in run_on_two_hosts(WORKER)]
    assert all(expected in output for output in outputs), outputs
