"""A cache on disk: what is read is what was written."""

import dataclasses
import pathlib

import ml_dtypes
import numpy as np
import pytest

from tests.data.small_cache import (
    CROPS,
    TOKENS,
    WIDTH,
    arrays_of,
    make_header,
    several_ids_header,
    source_config,
)
from toklip_jax.data.build import (
    Batching,
    evaluation_batches,
    make_tokenizer,
    training_batches,
)
from toklip_jax.data.cache import Field, load_header
from toklip_jax.data.config import TextDataConfig
from toklip_jax.data.sources import SourceConfig


def training(config, seed=0, workers=0):
    batching = Batching(3, num_workers=workers)
    return training_batches(SourceConfig.from_plain(config), batching, seed=seed)


def test_samples_are_what_was_written(cache):
    source = SourceConfig.from_plain(source_config(cache)).open()
    assert len(source) == 9
    assert source.key(5) == "part-00001-of-00003.array_record:1"
    assert source.classes == ("cat", "dog")
    want, got = arrays_of(6), source[5]
    assert got["ids"].dtype == got["token_ids"].dtype == np.int32
    np.testing.assert_array_equal(got["ids"], want["ids"][0])
    np.testing.assert_array_equal(got["token_ids"], want["token_ids"][0])
    rounded = want["teacher_feature"][0].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got["teacher_feature"], rounded)
    assert got["labels"] == 0


def test_ids_take_two_bytes_and_captions_no_fixed_room():
    header = make_header()
    assert header.record_bytes == 8 + 4 + 4 * 6 + 2 * CROPS * (TOKENS + WIDTH)
    assert len(header.pack(arrays_of(1), "ü")) == header.record_bytes + 2
    assert all(field.offset % 2 == 0 for field in header.fields)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_is_one_pass_over_images_each_as_a_random_crop(cache, workers):
    data = training(source_config(cache), 1, workers)
    stream = data(0)
    batches = [next(stream) for _ in range(12)]
    stream.close()
    assert set(batches[0]) == {"ids", "token_ids", "teacher_feature", "labels", "keys", "skipped"}
    crops = set()
    for epoch in range(4):
        seen = batches[3 * epoch : 3 * epoch + 3]
        keys = [key for batch in seen for key in batch["keys"]]
        assert len(set(keys)) == 9
        for batch in seen:
            for ids, feature, token_ids in zip(
                batch["ids"], batch["teacher_feature"], batch["token_ids"], strict=True
            ):
                crop, i = place_of(ids)
                want = arrays_of(i)
                rounded = want["teacher_feature"][crop].astype(ml_dtypes.bfloat16)
                np.testing.assert_array_equal(feature, rounded)
                np.testing.assert_array_equal(token_ids, want["token_ids"][0])
                crops.add(crop)
    assert crops == set(range(CROPS))
    fourth = next(training(source_config(cache), 1)(4))
    np.testing.assert_array_equal(fourth["ids"], batches[4]["ids"])


def place_of(ids):
    for i in range(10):
        for crop, row in enumerate(arrays_of(i)["ids"]):
            if np.array_equal(row, ids):
                return crop, i
    raise AssertionError(ids)


def test_evaluation_reads_the_first_crop_of_every_image(cache):
    batches = list(evaluation_batches(SourceConfig.from_plain(source_config(cache)), Batching(4)))
    ids = np.concatenate([batch["ids"][batch["mask"]] for batch in batches])
    want = [arrays_of(i)["ids"][0] for i in range(10) if i != 5]
    np.testing.assert_array_equal(ids, want)


def test_a_mixture_of_caches_is_one_and_of_both_is_refused(cache):
    part = source_config(cache) | {"weight": 1.0}
    other = {"kind": "synthetic", "weight": 1.0}
    mixed = {"kind": "mixture", "parts": [part, part]}
    assert SourceConfig.from_plain(mixed).cache_directories == [str(cache)] * 2
    assert next(training(mixed)(0))["ids"].shape == (3, TOKENS)
    with pytest.raises(ValueError, match="got cache: ids, synthetic: arrays"):
        SourceConfig("mixture", {"parts": [part, other]}).cache_directories  # noqa: B018


def test_a_place_may_have_several_ids_of_a_video(several_ids):
    directory, ids = several_ids
    assert load_header(directory) == several_ids_header()
    source = SourceConfig.from_plain(source_config(directory)).open()
    for i in range(3):
        assert source[i]["ids"].dtype == np.int32
        np.testing.assert_array_equal(source[i]["ids"], ids[i, 0])
    batch = next(training(source_config(directory))(0))
    assert batch["ids"].shape == (3, 6, 2)


def test_a_cache_of_format_1_reads_the_same():
    """Written by the version before format 2, with what it read from it."""
    directory = pathlib.Path(__file__).parent / "cache_format_1"
    samples = np.load(directory / "samples.npz")  # all crops of each image, one after another
    header = load_header(directory)
    assert (header.grid, header.codebook_sizes, header.codes_per_place) == ((2, 2), (32,), 1)
    assert (header.format, header.num_tokens, header.image_size) == (2, 4, 16)
    source = SourceConfig.from_plain(source_config(directory)).open()
    assert set(source[0]) == {*samples.files, "_crops"}
    for i in range(len(source)):
        for crop in range(header.crops):
            sample = header.read(source[i]["_crops"].record, crop)
            for name in samples.files:
                expected = samples[name][header.crops * i + crop]
                np.testing.assert_array_equal(sample[name].astype(expected.dtype), expected)
    assert len(source) * header.crops == len(samples["ids"])


def test_a_tokenizers_hash_is_of_what_it_does(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    make_header().save(tmp_path)
    source = SourceConfig.from_plain(source_config(tmp_path))
    again = make_tokenizer(TextDataConfig(context_length=8), source)
    assert again.fingerprint == tokenizer.fingerprint
    shorter = make_tokenizer(TextDataConfig(context_length=4), source)
    assert shorter.fingerprint != tokenizer.fingerprint


def test_fields_are_read_at_their_places():
    field = dataclasses.replace(Field("x", "float32", (2,), 2), offset=4)
    record = np.arange(5, dtype=np.float32).tobytes()
    np.testing.assert_array_equal(field.read(record, 1), [3, 4])
