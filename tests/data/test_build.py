"""Pipelines of encoded images as a whole: order, epochs, mixtures and evaluation over hosts."""

import collections
import itertools

import numpy as np
import pytest

from toklip_jax.data.build import Batching, evaluation_batches, training_batches
from toklip_jax.data.images import Decode, random_resized_crop
from toklip_jax.data.pipeline import batches
from toklip_jax.data.sources import ArraySource, SourceConfig
from toklip_jax.data.sources.array_record import write_array_record
from toklip_jax.data.sources.mixture import Mixture

SIZE, BATCH = 16, 8
BAD = "0.tar:000000003"


@pytest.fixture
def shards(tmp_path, raw):
    """Config of 44 tar samples, of which the fourth's image is cut off."""
    members = [
        (name, data[:-30] if name == "000000003.jpg" else data)
        for name, data in raw.pairs(0, 44, label=True)
    ]
    (tmp_path / "0.tar").write_bytes(raw.tar_bytes(members))
    return {"kind": "webdataset", "shards": f"{tmp_path}/0.tar"}


@pytest.fixture
def mixture(shards, tmp_path, raw):
    """Config of the shards and of 5 ArrayRecord samples, two to one."""
    records = [{"image": raw.jpeg(9 * i), "text": "one", "label": i} for i in range(5)]
    write_array_record(tmp_path / "a", records)
    other = {"kind": "array_record", "files": f"{tmp_path}/a"}
    return {"kind": "mixture", "parts": (shards | {"weight": 2}, other | {"weight": 1})}


def training(config, tokenizer, host=0, hosts=1, workers=0, start=0, seed=5):
    batching = Batching(BATCH, SIZE, num_workers=workers, host=host, hosts=hosts)
    source = SourceConfig.from_plain(config)
    read = training_batches(source, batching, tokenizer=tokenizer, seed=seed, has_labels=True)
    return read(start)


def batches_of_two(config, tokenizer=None, **others):
    source = SourceConfig.from_plain(config)
    return training_batches(source, Batching(2, SIZE), tokenizer=tokenizer, **others)


def evaluated(config, tokenizer, batch_size, start=0, has_labels=True, **shares):
    batching = Batching(batch_size, SIZE, **shares)
    source = SourceConfig.from_plain(config)
    others = {"tokenizer": tokenizer, "has_labels": has_labels, "start": start}
    return list(evaluation_batches(source, batching, **others))


def global_batches(config, tokenizer, number, hosts=1, **rest):
    """Each step's batch over all hosts, in the order of the sequence."""
    iterators = [training(config, tokenizer, host, hosts, **rest) for host in range(hosts)]
    steps = []
    for _ in range(number):
        parts = [next(iterator) for iterator in iterators]
        step = {"skipped": sorted(problem for part in parts for problem in part["skipped"])}
        for name in ("images", "token_ids", "labels", "keys"):
            step[name] = np.concatenate([np.asarray(part[name]) for part in parts])
            assert len(step[name]) == BATCH
        steps.append(step)
    for iterator in iterators:
        iterator.close()
    return steps


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert one["skipped"] == other["skipped"]
        for name in ("images", "token_ids", "labels", "keys"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_shares_one_sequence_of_a_mixture(mixture, tokenizer, hosts):
    expected = global_batches(mixture, tokenizer, 8)
    assert any(step["skipped"] for step in expected)  # replacements are part of the claim
    assert_same(global_batches(mixture, tokenizer, 8, hosts), expected)
    assert_same(global_batches(mixture, tokenizer, 3, hosts, start=5), expected[5:])


def test_workers_and_hosts_together_change_nothing(mixture, tokenizer):
    """Each worker draws every second batch of its host."""
    expected = global_batches(mixture, tokenizer, 8)[2:]
    iterator = training(mixture, tokenizer, host=1, hosts=2, workers=2, start=2)
    for step in expected:
        batch = next(iterator)
        for name in ("images", "token_ids", "labels", "keys"):
            np.testing.assert_array_equal(batch[name], step[name][BATCH // 2 :])
        assert set(batch["skipped"]) <= set(step["skipped"])
    iterator.close()


def test_one_picture_is_cropped_differently_in_each_epoch(shards, tokenizer):
    seen = collections.defaultdict(list)
    for batch in global_batches(shards, tokenizer, 11):
        for key, image in zip(batch["keys"], batch["images"], strict=True):
            seen[str(key)].append(image.tobytes())
    assert len(seen) == 43
    for key, images in seen.items():
        assert len(images) == 2 + 2 * (key == "0.tar:000000004")  # it stands in for the bad one
    # Of such small pictures some crops are the same by chance.
    assert sum(len(set(images)) > 1 for images in seen.values()) > 22


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_read_every_sample_once_an_epoch(shards, tokenizer, hosts):
    steps = global_batches(shards, tokenizer, 11, hosts)  # 88 places: 2 epochs of 44
    keys = [str(key) for step in steps for key in step["keys"]]
    for epoch in range(2):
        part = collections.Counter(keys[44 * epoch : 44 * epoch + 44])
        assert part.pop("0.tar:000000004") == 2
        assert part == {f"0.tar:{i:09d}": 1 for i in range(44) if i not in (3, 4)}
    assert sum(len(step["skipped"]) for step in steps) == 2
    assert {problem for step in steps for problem in step["skipped"]} == {(BAD, "truncated image")}


@pytest.mark.parametrize("weights", [(2.0, 1.0), (0.15, 0.85), (1.0, 1.0)])
def test_a_mixtures_parts_have_their_weights_and_their_own_epochs(weights):
    parts = [ArraySource(row=np.arange(0, 70)), ArraySource(row=np.arange(100, 150))]
    iterator = batches(Mixture(parts, weights), None, 20, 0)
    rows = np.concatenate([batch["row"] for batch in itertools.islice(iterator, 60)])
    share = np.mean(rows < 100)
    assert abs(share - weights[0] / sum(weights)) < 0.005
    for start in range(0, 1200, 60):  # and not in long runs of one part
        part = np.mean(rows[start : start + 60] < 100)
        assert abs(part - share) < 0.03
    for own, size in ((rows[rows < 100], 70), (rows[rows >= 100], 50)):
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(epochs) > 1
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_equal_parts_of_a_mixture_are_shuffled_apart():
    parts = [ArraySource(row=np.arange(50)), ArraySource(row=np.arange(100, 150))]
    rows = next(batches(Mixture(parts, (1.0, 1.0)), None, 100, 0))["row"]
    assert rows[rows < 100].tolist() != (rows[rows >= 100] - 100).tolist()


def test_mixtures_nest(mixture, shards, tokenizer):
    nested = {"kind": "mixture", "parts": (mixture | {"weight": 3}, shards | {"weight": 1})}
    steps = global_batches(nested, tokenizer, 9)
    files = collections.Counter(str(k).split(":")[0] for step in steps for k in step["keys"])
    assert files == {"a": 18, "0.tar": 54}


def test_parts_with_other_fields_are_refused():
    parts = [ArraySource(row=np.arange(4)), ArraySource(column=np.arange(4))]
    with pytest.raises(ValueError, match=r"same fields, got \['row'\] and \['column'\]"):
        next(batches(Mixture(parts, (1.0, 1.0)), None, 4, 0))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_counts_each_good_sample_once_over_all_hosts(shards, tokenizer, raw, hosts):
    parts = [evaluated(shards, tokenizer, 16, host=host, hosts=hosts) for host in range(hosts)]
    assert [len(part) for part in parts] == [3] * hosts  # 44 rows, filled up to 48
    counted = []
    for part in parts:
        for batch in part:
            assert batch["images"].shape == (16 // hosts, SIZE, SIZE, 3)
            assert batch["mask"].dtype == np.bool_
            counted += itertools.compress(batch["keys"], batch["mask"].tolist())
    assert sorted(counted) == [f"0.tar:{i:09d}" for i in range(44) if i != 3]
    assert sum((~batch["mask"]).sum() for part in parts for batch in part) == 5
    skipped = [problem for part in parts for batch in part for problem in batch["skipped"]]
    assert skipped == [(BAD, "truncated image")]


def test_evaluation_of_a_last_sample_that_is_bad_counts_it_once(tmp_path, raw):
    members = [*raw.pairs(0, 2), ("z.jpg", b"broken")]
    (tmp_path / "0.tar").write_bytes(raw.tar_bytes(members))
    config = {"kind": "webdataset", "shards": f"{tmp_path}/0.tar"}
    (batch,) = evaluated(config, None, 8, has_labels=False)
    assert batch["mask"].tolist() == [True, True] + [False] * 6
    assert batch["skipped"] == [("0.tar:z", "not an image")]
    assert set(batch) == {"images", "mask", "keys", "skipped"}


def test_evaluation_in_workers_is_the_same(shards, tokenizer):
    plain = evaluated(shards, tokenizer, 4)
    ours = evaluated(shards, tokenizer, 4, num_workers=1)
    assert [batch["keys"] for batch in ours] == [batch["keys"] for batch in plain]
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(one["mask"], other["mask"])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_that_goes_on_has_the_same_rows_in_workers_too(shards, tokenizer, workers):
    shares = {"host": 1, "hosts": 2}
    whole = evaluated(shards, tokenizer, 4, **shares)
    for start in (5, 11):
        rest = evaluated(shards, tokenizer, 4, start, num_workers=workers, **shares)
        for one, other in zip(rest, whole[start:], strict=True):
            assert (one["keys"], one["skipped"]) == (other["keys"], other["skipped"])
            for name in ("images", "token_ids", "labels", "mask"):
                np.testing.assert_array_equal(one[name], other[name])


def test_augment_reaches_the_transform_of_the_kind(shards, tokenizer, monkeypatch):
    scales = []

    def record(image, size, scale, rng):
        scales.append(scale)
        return random_resized_crop(image, size, scale, rng)

    monkeypatch.setattr("toklip_jax.data.images.decode.random_resized_crop", record)
    for augment in (None, {"scale": [0.5, 0.6]}):
        make = batches_of_two(shards, tokenizer, augment=augment)
        iterator = make(0)
        next(iterator)
        iterator.close()
    assert set(scales) == {(0.9, 1.0), (0.5, 0.6)}
    with pytest.raises(ValueError, match="did you mean 'scale'"):
        batches_of_two(shards, tokenizer, augment={"scales": 1})
    arrays = batches_of_two({"kind": "synthetic"}, augment={"max_shift": 1.0})
    assert set(next(arrays(0))) == {"images", "token_ids", "labels"}


def test_labels_in_some_samples_only_change_nothing_where_none_are_asked_for(tmp_path, raw):
    members = raw.pairs(0, 8)
    members += [("000000003.cls", b"3"), ("000000004.cls", b"a word")]
    (tmp_path / "0.tar").write_bytes(raw.tar_bytes(sorted(members)))
    config = {"kind": "webdataset", "shards": f"{tmp_path}/0.tar"}
    batch = next(
        training_batches(SourceConfig.from_plain(config), Batching(8, SIZE), has_text=False)(0)
    )
    assert (set(batch), batch["skipped"]) == ({"images", "keys", "skipped"}, [])
    rows = evaluated(config, None, 8)[0]
    assert rows["labels"][rows["mask"]].tolist() == [3]
    assert {cause for _, cause in rows["skipped"]} == {
        "missing label",
        "label is not a whole number",
    }


def test_a_source_is_read_at_the_first_batch(tokenizer):
    make = batches_of_two({"kind": "webdataset", "shards": "/none.tar"}, tokenizer)
    with pytest.raises(FileNotFoundError, match=r"/none\.tar"):
        make(0)


def test_texts_need_a_tokenizer(shards):
    with pytest.raises(ValueError, match="a tokenizer for the texts of webdataset"):
        batches_of_two(shards)
    make = batches_of_two(shards, has_text=False)
    assert "token_ids" not in next(make(0))


def test_evaluation_gives_the_squashed_picture(shards, raw):
    first = evaluated(shards, None, 1)[0]
    expected = Decode(SIZE, False)({"image": raw.jpeg(0)}, np.random.default_rng(0))["images"]
    np.testing.assert_array_equal(first["images"][0], expected)
