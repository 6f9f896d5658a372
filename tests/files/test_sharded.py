"""Safetensors files with an index, as Hugging Face writes them."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from toklip_jax.files import (
    LazyArray,
    MappedFile,
    find_sharded,
    read_array,
    read_sharded,
    write_safetensors,
    write_sharded,
)

ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "large": np.arange(40, dtype=np.float32),
    "half": np.array([1.5, 2], np.float16),
    "scalar": np.float32(3).reshape(()),
}


def same(got, want):
    assert set(got) == set(want)
    for name in want:
        assert (got[name].dtype, got[name].shape) == (want[name].dtype, want[name].shape), name
        assert got[name].tobytes() == want[name].tobytes(), name


def test_tensors_that_fit_into_one_file_have_no_index(tmp_path):
    write_sharded(tmp_path, "model", ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    got, file = read_sharded(find_sharded(tmp_path, "model"))
    same(got, ARRAYS)
    assert isinstance(file, MappedFile)


def test_more_are_split_and_named_by_an_index(tmp_path):
    write_sharded(tmp_path, "model", ARRAYS, max_shard_bytes=100)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *names,
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 24 + 160 + 4 + 4}
    assert index["weight_map"] == {
        "a/b": names[0],
        "large": names[1],  # larger than a shard, and alone in one
        "half": names[2],
        "scalar": names[2],
    }
    got, files = read_sharded(find_sharded(tmp_path, "model"))
    same(got, ARRAYS)
    assert [file.path.name for file in files.files] == names
    files.release()
    same(got, ARRAYS)
    theirs = [safetensors.numpy.load_file(tmp_path / name) for name in names]
    same(theirs[0] | theirs[1] | theirs[2], ARRAYS)


def test_each_tensor_is_made_once_and_in_turn(tmp_path):
    made = []

    def lazy(i):
        return LazyArray((2,), np.dtype(np.int32), lambda: made.append(i) or np.full(2, i, "i4"))

    write_sharded(tmp_path, "x", {str(i): lazy(i) for i in range(5)}, max_shard_bytes=16)
    assert made == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("no json", "is damaged"),
        ("[1]", "expected a weight_map"),
        ('{"weight_map": {}}', "expected a weight_map"),
        ('{"weight_map": {"x": "../other.safetensors"}}', "names of files beside"),
        ('{"weight_map": {"x": 1}}', "names of files beside"),
        ('{"weight_map": {"x": "missing.safetensors"}}', "missing.safetensors is missing"),
        ('{"weight_map": {"x": "a.safetensors", "z": "a.safetensors"}}', "got others"),
        ('{"weight_map": {"y": "a.safetensors"}}', "got others"),
    ],
)
def test_a_damaged_index_gives_one_clear_error(index, message, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x": ARRAYS["half"]})
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(ValueError, match=message) as caught:
        read_sharded(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (700, 1, 33), (3, 700, 31)])
def test_arrays_are_cast_in_slices_as_they_are_whole(shape, dtype, monkeypatch):
    monkeypatch.setattr("toklip_jax.files.lazy.SLICE_BYTES", 1000)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    released = []
    for view in (array, array.T, np.moveaxis(array, 0, -1) if shape else array):
        got = read_array(view, np.dtype(dtype), lambda: released.append(1))
        assert got.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(got, np.asarray(view).astype(dtype))
        assert not got.size or not np.shares_memory(got, array)
    assert len(released) > 3 or array.nbytes <= 1000
