"""The reader of what torch wrote before 1.6, on a file that torch recorded and damaged copies."""

import numpy as np
import pytest

from toklip_jax.files.torch_zip import UnsafeFileError
from toklip_jax.weights.checkpoint_file import read_checkpoint


@pytest.fixture
def recorded(golden):
    return golden("torch_legacy/checkpoint.pt").read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth"


def replaced(data, old, new):
    assert data.count(old) >= 1
    return data.replace(old, new)


def test_views_strides_dtypes_and_scalars_are_exact(golden):
    checkpoint = read_checkpoint(golden("torch_legacy/checkpoint.pt"))
    got, whole = checkpoint.tensors, np.arange(6, dtype=np.float32).reshape(2, 3)
    assert checkpoint.format == "torch"
    for name, want in {
        "a": whole,
        "t": whole.T,
        "part": whole[1, 1:],
        "b": np.arange(3),
        "s": np.float16(5),
    }.items():
        np.testing.assert_array_equal(got[name], want)
        assert got[name].dtype == want.dtype
        assert not got[name].flags.writeable


def test_a_file_cut_off_anywhere_gives_one_clear_error(recorded, path):
    for length in range(20, len(recorded), 7):
        path.write_bytes(recorded[:length])
        with pytest.raises(ValueError, match=r"^can't read .*(damaged|cut off|got another)"):
            read_checkpoint(path)


def test_a_file_that_runs_code_is_refused(recorded, path):
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    path.write_bytes(replaced(recorded, name, b"cposix\nsystem\n"))
    with pytest.raises(UnsafeFileError, match=r"posix\.system"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"M\xe9\x03.", b"M\xe8\x03.", "expected protocol 1001"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "big-endian"),
        (b"FloatStorage", b"DoubleStorage", "ends past the file"),
        (b"FloatStorage", b"EvilStorage", "expected a storage of"),
        (b"\x06" + b"\0" * 7, b"\xff" * 8, "ends past the file"),
        (b"\x06" + b"\0" * 7, b"\x05" + b"\0" * 7, "damaged"),
        (b"storage", b"garbage", "a tensor without storage"),
    ],
)
def test_damage_is_named(recorded, path, old, new, message):
    path.write_bytes(replaced(recorded, old, new))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize("objects", [b"}", b"N"])
def test_a_pickle_of_nothing_but_objects_is_refused(recorded, path, objects, monkeypatch):
    monkeypatch.setattr("toklip_jax.files.pickle_data.MAX_INSTRUCTIONS", 1000)
    begin = recorded.index(b"little_endian")
    begin = recorded.index(b".", begin) + 1  # behind the pickle of the byte order
    path.write_bytes(recorded[:begin] + b"\x80\x02" + objects * 1001 + b".")
    with pytest.raises(ValueError, match="at most 1000 instructions"):
        read_checkpoint(path)
    path.write_bytes(recorded[: recorded.index(b"M\xe9\x03.")] + objects * 999 + b".")
    with pytest.raises(ValueError, match="at most 100 instructions"):
        read_checkpoint(path)


def test_pickles_longer_than_the_limit_are_refused(recorded, path, monkeypatch):
    monkeypatch.setattr("toklip_jax.files.torch_legacy.MAX_PICKLE_BYTES", 300)
    path.write_bytes(recorded)
    with pytest.raises(ValueError, match="expected pickles of at most 300 bytes"):
        read_checkpoint(path)
