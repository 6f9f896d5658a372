"""Damaged caches, and directories that are none, are named before a sample is read from them."""

import json

import numpy as np
import pytest

from tests.data.small_cache import (
    CROPS,
    TOKENS,
    arrays_of,
    make_header,
    several_ids_header,
    source_config,
)
from toklip_jax.data.cache import export_parquet, load_header
from toklip_jax.data.health import BadSample
from toklip_jax.data.record_files import write_records
from toklip_jax.data.sources import SourceConfig


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


def test_headers_are_read_as_they_were_written(cache):
    assert load_header(cache) == make_header()
    assert load_header(cache) != make_header(num_samples=9)
    assert json.loads((cache / "header.json").read_text())["num_shards"] == 3


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
