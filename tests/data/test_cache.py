"""A cache on disk: what is read is what was written, and nothing else is taken for one."""

import dataclasses
import json
import pathlib

import ml_dtypes
import numpy as np
import pyarrow.parquet
import pytest

from toklip_jax.data.build import (
    Batching,
    evaluation_batches,
    make_tokenizer,
    training_batches,
)
from toklip_jax.data.cache import (
    METADATA,
    Field,
    Header,
    export_parquet,
    lay_out,
    load_header,
)
from toklip_jax.data.config import TextDataConfig
from toklip_jax.data.health import BadSample
from toklip_jax.data.record_files import read_records, write_records
from toklip_jax.data.sources import SourceConfig
from toklip_jax.weights.fingerprints import fingerprint_params

CROPS, TOKENS, WIDTH = 3, 4, 5


def make_header(**changes):
    fields = lay_out(
        [
            Field("ids", "uint16", (TOKENS,), CROPS),
            Field("token_ids", "uint32", (6,)),
            Field("teacher_feature", "bfloat16", (WIDTH,), CROPS),
            Field("index", "int64", ()),
            Field("labels", "int32", ()),
        ]
    )
    values = {
        "num_samples": 10,
        "records_per_shard": 4,
        "crops": CROPS,
        "image_size": 16,
        "grid": (2, 2),
        "codes_per_place": 1,
        "codebook_sizes": (60_000,),
        "context_length": 6,
        "fields": fields,
        "has_captions": True,
        "hashes": {"vq": "a", "teacher": "b", "text_tower": "", "tokenizer": "c"},
        "transform": {"augment": {"scale": [0.9, 1.0]}, "resize": "", "seed": 0},
        "compute": {"dtype": "float32", "vq_dtype": "float32"},
        "source": {"kind": "synthetic"},
        "classes": ("cat", "dog"),
    }
    return Header(**values | changes)


def arrays_of(i):
    rng = np.random.default_rng(i)
    return {
        "ids": rng.integers(0, 60_000, (CROPS, TOKENS)),
        "token_ids": rng.integers(0, 256_000, (1, 6)),
        "teacher_feature": rng.standard_normal((CROPS, WIDTH)),
        "index": np.array([i]),
        "labels": np.array([i % 2]),
    }


@pytest.fixture
def cache(tmp_path):
    """Ten samples of which number 5 could not be read, in three shards."""
    header = make_header()
    header.save(tmp_path)
    for shard in range(header.num_shards):
        inside = range(4 * shard, min(4 * shard + 4, 10))
        records = [header.pack(arrays_of(i), f"caption ü {i}") for i in inside if i != 5]
        write_records(tmp_path / header.shard(shard), records)
    return tmp_path


def source_config(directory):
    return {"kind": "cache", "directory": str(directory)}


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


def change_header(cache, changes):
    """Changes the header as one that has no checksum yet."""
    path = cache / "header.json"
    header = json.loads(path.read_text()) | changes
    header.pop("checksum", None)
    path.write_text(json.dumps(header))


def test_what_is_no_finished_cache_is_refused(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no header.json: make one with"):
        SourceConfig.from_plain(source_config(tmp_path / "none")).open()
    (cache / "part-00001-of-00003.array_record").rename(cache / "away")
    with pytest.raises(ValueError, match=r"expected 3 shards .* found 2 \(no part-00001"):
        SourceConfig.from_plain(source_config(cache)).open()
    header = cache / "header.json"
    change_header(cache, {})
    text = header.read_text()
    header.write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(ValueError, match="of format 1 or 2, got 3"):
        load_header(cache)
    header.write_text(text[:50])
    with pytest.raises(ValueError, match="is damaged"):
        load_header(cache)
    header.write_text(text.replace("uint16", "uint17"))
    with pytest.raises(ValueError, match="is damaged"):
        load_header(cache)


@pytest.mark.parametrize(
    "changes",
    [
        {"records_per_shard": 0},
        {"records_per_shard": -4},
        {"num_samples": 1.5},
        {"num_samples": True},
        {"num_samples": 1e999},
        {"crops": 0},
        {"grid": [2, 0]},
        {"grid": 4},
        {"codebook_sizes": [-1]},
        {"codebook_sizes": ["many"]},
        {"image_size": "large"},
        {"context_length": -1},
        {"record_bytes": 10},
        {"fields": []},
        {"fields": [5]},
        {"format": [2]},
        {"classes": 3},
        {"classes": [1, 2]},
        {"hashes": []},
        {"hashes": {"vq": 3}},
        {"transform": 3},
        {"compute": None},
        {"has_captions": "yes"},
    ],
)
def test_a_damaged_header_is_named(cache, changes):
    change_header(cache, changes)
    with pytest.raises(ValueError, match=r"header\.json is damaged|cache of format"):
        load_header(cache)


def test_a_header_of_which_anything_changed_is_damaged(cache):
    path = cache / "header.json"
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        try:
            assert load_header(cache) == make_header()  # white space alone
        except ValueError:
            continue
    path.write_bytes(whole.replace(b'"cat"', b'"cut"'))
    with pytest.raises(ValueError, match=r"damaged \(it was changed after it was written\)"):
        load_header(cache)


def test_shards_that_changed_places_are_named(cache):
    one, two = (cache / f"part-0000{i}-of-00003.array_record" for i in (0, 1))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    with pytest.raises(ValueError, match=r"samples 0 to 3 in .*part-00000.*, got 4"):
        SourceConfig.from_plain(source_config(cache)).open()
    two.write_bytes(content)
    with pytest.raises(ValueError, match="it is another shard"):
        SourceConfig.from_plain(source_config(cache)).open()


@pytest.mark.parametrize("change", [lambda f: f | {"offset": 4}, lambda f: f | {"count": 7}])
def test_fields_that_overlap_are_a_damaged_header(cache, change):
    fields = json.loads((cache / "header.json").read_text())["fields"]
    change_header(cache, {"fields": [*fields[:-1], change(fields[-1])]})
    with pytest.raises(ValueError, match=r"header\.json is damaged"):
        load_header(cache)


def test_a_header_of_too_many_samples_is_found_at_once(cache):
    for changes in ({"num_samples": 10**12}, {"num_samples": 10**9, "records_per_shard": 1}):
        change_header(cache, changes)
        with pytest.raises(ValueError, match=r"found 3 \(no part-0.*header\.json is damaged"):
            SourceConfig.from_plain(source_config(cache)).open()


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.0])
def test_a_shard_that_was_cut_off_is_named(cache, keep):
    shard = cache / "part-00001-of-00003.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=f"{shard.name}, which is damaged"):
        SourceConfig.from_plain(source_config(cache)).open()
    with pytest.raises(ValueError, match=shard.name):
        export_parquet(cache, cache / "parquet")


def test_a_record_that_is_damaged_is_a_bad_sample(cache):
    shard = cache / "part-00001-of-00003.array_record"
    whole = shard.read_bytes()
    config, causes = SourceConfig.from_plain(source_config(cache)), set()
    for at in range(60, 1200, 60):  # where the records are
        data = bytearray(whole)
        data[at] ^= 255
        shard.write_bytes(data)
        try:
            source = config.open()
            for i in range(len(source)):
                source[i]
        except (ValueError, BadSample) as error:  # any other fails the test
            causes.add(type(error))
    assert BadSample in causes


def test_records_of_another_cache_are_named(cache):
    write_records(cache / "part-00000-of-00003.array_record", [b"x"] * 5)
    with pytest.raises(ValueError, match=r"at most 4 records in .*part-00000"):
        SourceConfig.from_plain(source_config(cache)).open()
    records = [
        make_header().pack(arrays_of(i) | {"ids": np.full((CROPS, TOKENS), 65_000)}) for i in (0, 1)
    ]
    write_records(cache / "part-00000-of-00003.array_record", records)
    with pytest.raises(ValueError, match=r"ids below .60000,. in .*part-00000.*, got 65000"):
        SourceConfig.from_plain(source_config(cache)).open()
    write_records(cache / "part-00000-of-00003.array_record", [b"short"])
    source = SourceConfig.from_plain(source_config(cache)).open()
    with pytest.raises(BadSample, match="damaged record"):
        source[0]


@pytest.mark.parametrize("change", [lambda r: r[:5], lambda r: r + b"\xff", lambda r: b""])
def test_a_record_that_is_not_this_caches_is_not_exported(cache, tmp_path, change):
    path = str(next(cache.glob("part-00000*")))
    write_records(path, [change(record) for record in read_records(path)])
    with pytest.raises(ValueError, match=r"records of this cache in .*part-00000.*in row 0"):
        export_parquet(cache, tmp_path / "parquet")


def test_headers_are_read_as_they_were_written(cache):
    assert load_header(cache) == make_header()
    assert load_header(cache) != make_header(num_samples=9)
    assert json.loads((cache / "header.json").read_text())["num_shards"] == 3


def several_ids_header(**changes):
    """Videos of 2 x 3 x 1 places with two ids each, one of a codebook above 16 bits."""
    fields = lay_out([Field("index", "int64", ()), Field("ids", "uint32", (6, 2), CROPS)])
    values = {
        "image_size": (4, 24, 8),
        "grid": (2, 3, 1),
        "codes_per_place": 2,
        "codebook_sizes": (2**18, 16),
        "fields": fields,
        "num_samples": 3,
    }
    return make_header(**values | changes)


@pytest.fixture
def several_ids(tmp_path):
    """A cache of such videos, and its ids [3, crops, 6, 2]."""
    header = several_ids_header()
    ids = np.random.default_rng(0).integers(0, header.codebook_sizes, (3, CROPS, 6, 2))
    header.save(tmp_path)
    packed = [header.pack({"ids": ids[i], "index": np.array([i])}, str(i)) for i in range(3)]
    write_records(tmp_path / header.shard(0), packed)
    return tmp_path, ids


def test_a_place_may_have_several_ids_of_a_video(several_ids):
    directory, ids = several_ids
    assert load_header(directory) == several_ids_header()
    source = SourceConfig.from_plain(source_config(directory)).open()
    for i in range(3):
        assert source[i]["ids"].dtype == np.int32
        np.testing.assert_array_equal(source[i]["ids"], ids[i, 0])
    batch = next(training(source_config(directory))(0))
    assert batch["ids"].shape == (3, 6, 2)


def test_parquet_nests_the_ids_of_a_place(several_ids, tmp_path):
    directory, ids = several_ids
    (file,) = export_parquet(directory, tmp_path / "parquet", id_offset=100)
    table = pyarrow.parquet.read_table(file)
    rows = np.array(table["image_tokens"].to_pylist())
    np.testing.assert_array_equal(rows, ids.reshape(-1, 6, 2) + 100)
    assert table["caption"].to_pylist() == [str(i) for i in range(3) for _ in range(CROPS)]
    assert str(table.schema.field("image_tokens").type.value_type.value_type) == "int32"
    about = json.loads(table.schema.metadata[METADATA])
    assert (about["grid"], about["codes_per_place"]) == ([2, 3, 1], 2)
    assert about["codebook_sizes"] == [2**18, 16]


def test_a_shard_without_records_is_parquet_without_rows(tmp_path):
    header = several_ids_header()
    header.save(tmp_path)
    write_records(tmp_path / header.shard(0), [])
    (file,) = export_parquet(tmp_path, tmp_path / "parquet")
    assert pyarrow.parquet.read_table(file).num_rows == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (2, 3)}, r"ids of shape \(6,\), got \(6, 2\)"),
        ({"grid": (2, 2, 1)}, r"ids of shape \(4, 2\), got \(6, 2\)"),
        ({"codebook_sizes": (16,)}, "a codebook size for each of 2 ids a place"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(changes, message):
    codes = 1 if changes.get("grid") == (2, 3) else 2
    sizes = (16,) * codes
    with pytest.raises(ValueError, match=message):
        several_ids_header(**{"codes_per_place": codes, "codebook_sizes": sizes} | changes)


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


def test_parquet_has_a_row_a_crop_with_the_offset_added(cache, tmp_path):
    files = export_parquet(cache, tmp_path / "parquet", id_offset=1000)
    assert [path.name for path in files] == [f"part-0000{i}-of-00003.parquet" for i in range(3)]
    tables = [pyarrow.parquet.read_table(path) for path in files]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == 9 * CROPS
    assert rows[0]["image_tokens"] == (arrays_of(0)["ids"][0] + 1000).tolist()
    assert rows[16]["image_tokens"] == (arrays_of(6)["ids"][1] + 1000).tolist()
    assert rows[16]["caption"] == "caption ü 6"
    about = json.loads(tables[0].schema.metadata[METADATA])
    assert (about["id_offset"], about["num_tokens"], about["vq_sha256"]) == (1000, TOKENS, "a")
    assert str(tables[0].schema.field("image_tokens").type.value_type) == "uint16"


def test_parquet_widens_for_large_offsets_and_refuses_impossible_ones(cache, tmp_path):
    (first, *_) = export_parquet(cache, tmp_path / "parquet", 256_000, host=1, hosts=3)
    assert first.name == "part-00001-of-00003.parquet"
    table = pyarrow.parquet.read_table(first)
    assert str(table.schema.field("image_tokens").type.value_type) == "int32"
    assert table["image_tokens"][0].as_py() == (arrays_of(4)["ids"][0] + 256_000).tolist()
    for offset in (-1, 2**31):
        with pytest.raises(ValueError, match="expected an id_offset from 0"):
            export_parquet(cache, tmp_path, offset)


def test_a_tokenizers_hash_is_of_what_it_does(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    make_header().save(tmp_path)
    source = SourceConfig.from_plain(source_config(tmp_path))
    again = make_tokenizer(TextDataConfig(context_length=8), source)
    assert again.fingerprint == tokenizer.fingerprint
    shorter = make_tokenizer(TextDataConfig(context_length=4), source)
    assert shorter.fingerprint != tokenizer.fingerprint


def test_a_hash_of_parameters_is_of_their_values_alone():
    layers = [{"w": np.arange(3, dtype=np.float32) + i} for i in range(2)]
    apart = {"stack": {f"blocks_{i}": layer for i, layer in enumerate(layers)}}
    stacked = {"stack": {"blocks": {"w": np.stack([layer["w"] for layer in layers])}}}
    short = {"stack": {"blocks": {"w": stacked["stack"]["blocks"]["w"].astype(ml_dtypes.bfloat16)}}}
    assert fingerprint_params(apart) == fingerprint_params(stacked) == fingerprint_params(short)
    layers[1]["w"][2] += 1
    assert fingerprint_params(apart) != fingerprint_params(stacked)
    assert fingerprint_params({"v": layers[0]["w"]}) != fingerprint_params({"w": layers[0]["w"]})


def test_fields_are_read_at_their_places():
    field = dataclasses.replace(Field("x", "float32", (2,), 2), offset=4)
    record = np.arange(5, dtype=np.float32).tobytes()
    np.testing.assert_array_equal(field.read(record, 1), [3, 4])
