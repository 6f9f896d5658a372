import itertools
import subprocess
import sys

import numpy as np
import pytest

from toklip_jax.data.images import ShiftAndScale
from toklip_jax.data.pipeline import batches, evaluation_batches
from toklip_jax.data.sources import ArraySource

SIZE = 22  # not a multiple of the batch size: batches span epochs
BATCH = 8


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    return ArraySource(
        images=rng.integers(0, 256, (SIZE, 6, 6, 3), np.uint8), row=np.arange(SIZE, dtype=np.int32)
    )


def global_batches(source, num_batches, hosts=1, workers=0, start=0, seed=5):
    """Each step's rows and augmented images over all hosts, in the order of the sequence."""
    iterators = [
        batches(source, ShiftAndScale(), BATCH, seed, start, workers, host, hosts)
        for host in range(hosts)
    ]
    steps = []
    for _ in range(num_batches):
        parts = [next(iterator) for iterator in iterators]
        steps.append({n: np.concatenate([p[n] for p in parts]) for n in ("row", "images")})
    for iterator in iterators:
        iterator.close()
    return steps


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        for name in ("row", "images"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_out_one_sequence_augmentation_included(source, hosts):
    assert_same(global_batches(source, 7, hosts), global_batches(source, 7))


@pytest.mark.parametrize("start", [1, 3, 11])  # 11 * 8 is past three epochs
def test_a_run_resumes_by_its_step_alone(source, start):
    assert_same(global_batches(source, 4, start=start), global_batches(source, start + 4)[start:])


def test_workers_change_nothing(source):
    expected = global_batches(source, 9)[3:]
    ours = batches(source, ShiftAndScale(), BATCH, 5, 3, num_workers=2, host=1, hosts=2)
    for step in expected:
        batch = next(ours)
        for name in ("row", "images"):
            np.testing.assert_array_equal(batch[name], step[name][BATCH // 2 :])
    ours.close()


def test_every_epoch_is_another_permutation_with_other_augmentation(source):
    steps = global_batches(source, 11)  # 88 rows: four epochs
    rows = np.concatenate([step["row"] for step in steps]).reshape(4, SIZE)
    images = np.concatenate([step["images"] for step in steps]).reshape(4, SIZE, -1)
    for epoch in rows:
        assert sorted(epoch) == list(range(SIZE))
    assert len({tuple(epoch) for epoch in rows}) == 4
    first, second = (images[epoch][np.argsort(rows[epoch])] for epoch in (0, 1))
    assert np.all((first != second).any(-1))


def test_another_seed_is_another_order(source):
    one, other = (global_batches(source, 1, seed=seed)[0]["row"] for seed in (1, 2))
    assert one.tolist() != other.tolist()


def test_evaluation_sees_each_sample_once_and_masks_the_filling(source):
    seen = list(evaluation_batches(source, BATCH))
    assert [len(batch["row"]) for batch in seen] == [BATCH] * 3
    rows = np.concatenate([batch["row"][batch["mask"]] for batch in seen])
    np.testing.assert_array_equal(rows, np.arange(SIZE))
    assert seen[-1]["row"].tolist()[-3:] == [SIZE - 1] * 3


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_evaluation_goes_on_with_the_rows_that_are_left(source, hosts, start):
    for host in range(hosts):
        whole = list(evaluation_batches(source, BATCH, ShiftAndScale(), 0, host, hosts))
        rest = list(evaluation_batches(source, BATCH, ShiftAndScale(), 0, host, hosts, start=start))
        assert len(rest) == 3 - start
        for one, other in zip(rest, whole[start:], strict=True):
            for name in ("row", "images", "mask"):
                np.testing.assert_array_equal(one[name], other[name])


def test_an_evaluation_that_goes_on_reads_nothing_it_passes_over(source):
    read = set()

    class Watched(ArraySource):
        def __getitem__(self, index):
            read.add(index)
            return super().__getitem__(index)

    list(evaluation_batches(Watched(**source.arrays), BATCH, start=2))
    assert read == set(range(2 * BATCH, SIZE))
    for start, message in [(4, "at most the 3 batches there are, got 4"), (-1, "got -1")]:
        with pytest.raises(ValueError, match=message):
            evaluation_batches(source, BATCH, start=start)


def test_workers_start_in_a_plain_script_that_parses_no_flags(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from toklip_jax.data.pipeline import batches\n"
        "from toklip_jax.data.sources import SourceConfig\n"
        "if __name__ == '__main__':\n"
        "    source = SourceConfig.from_plain({'kind': 'synthetic'}).open()\n"
        "    print(next(batches(source, None, 4, 0, num_workers=1))['images'].shape)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "(4, 16, 16, 3)\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 6, "hosts": 4}, "multiple of the 4 hosts, got 6"),
        ({"batch_size": 0}, "got 0"),
        ({"host": 2, "hosts": 2}, r"host in \[0, 2\)"),
        ({"start_step": -1}, "start of at least 0, got -1"),
    ],
)
def test_sizes_that_do_not_fit_are_named_at_once(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(source, None, **({"batch_size": 8, "seed": 0} | arguments))


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="empty"):
        batches(ArraySource(row=np.zeros(0)), None, 1, 0)


def test_iteration_never_ends(source):
    iterator = batches(source, None, BATCH, 0)
    assert len(list(itertools.islice(iterator, 30))) == 30
