import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from toklip_jax.files import LazyArray, MappedFile, lazy_stack, read_safetensors, write_safetensors

ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5], np.float16),
    "brain": np.array([1.5, np.nan], ml_dtypes.bfloat16),
    "scalar": np.float32(3).reshape(()),
    "empty": np.zeros((0, 4), np.int32),
    "flag": np.array([True, False]),
    "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
}


def same(got, want):
    assert list(got) == list(want)
    for name in want:
        assert (got[name].dtype, got[name].shape) == (want[name].dtype, want[name].shape), name
        assert got[name].tobytes() == want[name].tobytes(), name


def test_a_round_trip_is_bit_exact(tmp_path):
    write_safetensors(tmp_path / "x", ARRAYS)
    same(read_safetensors(MappedFile(tmp_path / "x")), ARRAYS)


def test_the_formats_own_library_reads_and_writes_the_same(tmp_path):
    arrays = {n: np.ascontiguousarray(a) for n, a in ARRAYS.items() if n not in ("scalar", "brain")}
    write_safetensors(tmp_path / "ours", arrays)
    theirs = safetensors.numpy.load_file(tmp_path / "ours")
    same({name: theirs[name] for name in arrays}, arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "theirs")
    got = read_safetensors(MappedFile(tmp_path / "theirs"))
    same({name: got[name] for name in arrays}, arrays)


def test_lazy_arrays_are_made_one_at_a_time(tmp_path):
    made = []

    def lazy(i):
        return LazyArray((2,), np.dtype(np.int32), lambda: made.append(i) or np.full(2, i, "i4"))

    arrays = {str(i): lazy(i) for i in range(3)}
    arrays["stack"] = lazy_stack([lazy(8), np.full(2, 9, "i4")])
    assert not made
    write_safetensors(tmp_path / "x", arrays)
    assert made == [0, 1, 2, 8]
    got = read_safetensors(MappedFile(tmp_path / "x"))
    np.testing.assert_array_equal(got["1"], [1, 1])
    np.testing.assert_array_equal(got["stack"], [[8, 8], [9, 9]])


def test_arrays_of_several_types_are_not_stacked():
    with pytest.raises(ValueError, match=r"one type to stack, got \['float16', 'float32'\]"):
        lazy_stack([np.zeros(2, np.float32), np.zeros(2, np.float16)])


def test_a_copy_of_a_lazy_array_may_be_written_to():
    kept = np.zeros(3)
    kept.setflags(write=False)
    copy = np.array(LazyArray((3,), kept.dtype, lambda: kept))
    copy[0] = 1
    assert kept[0] == 0


@pytest.mark.parametrize(
    "header",
    [
        "no json",
        "[" * 100_000,
        "[1]",
        '{"x": 1}',
        json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}),
        json.dumps({"x": {"dtype": "F8", "shape": [8], "data_offsets": [0, 8]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
        json.dumps({"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}),
        json.dumps({"x": {"dtype": "F32", "shape": [1] * 99 + [2], "data_offsets": [0, 8]}}),
        json.dumps({"x": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8], "more": 0}}),
        '{"x": {"dtype": "F32", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 8]}}',
        '{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
    ],
)
def test_damaged_headers_give_one_clear_error(header, tmp_path):
    text = header.encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"damaged|expected a dtype"):
        read_safetensors(MappedFile(tmp_path / "x"))


PAIR = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
X, Y = f'"x": {PAIR}', f'"y": {PAIR}'
TWICE_WITHIN = '"x": {"dtype": "F32", "shape": [2], "shape": [2], "data_offsets": [0, 8]}'


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((X, X), "its header names x twice"),
        ((X, Y), "the tensor y overlaps the one before it"),
        ((TWICE_WITHIN,), "its header names shape twice"),
    ],
)
def test_each_name_and_each_byte_is_used_once(entries, message, tmp_path):
    text = ("{" + ", ".join(entries) + "}").encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=message):
        read_safetensors(MappedFile(tmp_path / "x"))


def test_long_headers_and_many_tensors_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "x", ARRAYS)
    monkeypatch.setattr("toklip_jax.files.safetensors.MAX_HEADER_BYTES", 99)
    monkeypatch.setattr("json.loads", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(ValueError, match=r"expected a header of at most 99 bytes.*several files"):
        read_safetensors(MappedFile(tmp_path / "x"))
    monkeypatch.undo()
    monkeypatch.setattr("toklip_jax.files.safetensors.MAX_TENSORS", 5)
    with pytest.raises(ValueError, match="expected at most 5 tensors"):
        read_safetensors(MappedFile(tmp_path / "x"))


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes((2**62).to_bytes(8, "little") + b"{}" + bytes(8))
    with pytest.raises(ValueError, match="its header ends past the file"):
        read_safetensors(MappedFile(tmp_path / "x"))
