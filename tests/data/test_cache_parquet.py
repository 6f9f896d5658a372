"""A cache as Parquet: a row for each crop."""

import json

import numpy as np
import pyarrow.parquet
import pytest
from array_record.python import array_record_module

from tests.data.small_cache import CROPS, TOKENS, arrays_of, several_ids_header
from toklip_jax.data.cache import METADATA, export_parquet
from toklip_jax.data.record_files import read_records, write_records


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


@pytest.mark.parametrize("change", [lambda r: r[:5], lambda r: r + b"\xff", lambda r: b""])
def test_a_record_that_is_not_this_caches_is_not_exported(cache, tmp_path, change):
    path = str(next(cache.glob("part-00000*")))
    write_records(path, [change(record) for record in read_records(path)])
    with pytest.raises(ValueError, match=r"records of this cache in .*part-00000.*in row 0"):
        export_parquet(cache, tmp_path / "parquet")


def test_parquet_of_something_else_is_neither_replaced_nor_mixed_with(cache, tmp_path):
    files = export_parquet(cache, tmp_path, id_offset=7)
    before = [path.read_bytes() for path in files]
    (tmp_path / ".part-00001-of-00003.parquet").write_bytes(b"of another host")
    assert export_parquet(cache, tmp_path, id_offset=7) == files  # the same may be written again
    with pytest.raises(ValueError, match=r"another cache or offset.*part-00000-of-00003\.parquet"):
        export_parquet(cache, tmp_path, id_offset=8)
    assert [path.read_bytes() for path in files] == before
    (tmp_path / "train-0.parquet").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"found train-0\.parquet: choose another directory"):
        export_parquet(cache, tmp_path, id_offset=7)


@pytest.mark.parametrize("fails", ["write", "close"])
def test_nothing_is_left_of_records_that_do_not_fit_on_the_disk(tmp_path, monkeypatch, fails):
    class Full(array_record_module.ArrayRecordWriter):
        def close(self):
            super().close()
            if fails == "close":
                raise RuntimeError("No space left on device")

        def write(self, record):
            if fails == "write":
                raise RuntimeError("No space left on device")
            super().write(record)

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match=r"can't write .*shard: No space left"):
        write_records(tmp_path / "shard", [b"x"])
    assert not list(tmp_path.iterdir())
