"""Parts of an evaluation that were kept: whole ones are used, damaged ones encoded again."""

import numpy as np
import pytest

from toklip_jax.evaluation.parts import Encoded, Parts

KEY = {"outputs": ["image", "ids"], "data": "x"}


def part(number, **others):
    rows = {
        "index": np.arange(4) + 4 * number,
        "image": np.full((4, 3), number, np.float32),
        "ids": np.zeros((4, 2), np.int32),
    }
    return Encoded(rows | others, {"no picture": number})


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path, KEY)
    for number in range(3):
        parts.write(number, part(number))
    return parts


def count(parts):
    return len(Parts(parts.directory.parent, KEY).read(10))


def test_parts_are_read_as_they_were_written(parts):
    read = parts.read(10)
    assert [one.skipped for one in read] == [{"no picture": number} for number in range(3)]
    for number, one in enumerate(read):
        for name, want in part(number).rows.items():
            np.testing.assert_array_equal(one.rows[name], want)
    assert len(parts.read(2)) == 2
    assert Parts(parts.directory.parent, KEY | {"data": "y"}).read(10) == []


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"", lambda data: b"no zip" * 99])
def test_a_damaged_part_and_what_follows_are_encoded_again_after_a_warning(damage, parts, caplog):
    path = parts._path(1)
    path.write_bytes(damage(path.read_bytes()))
    assert count(parts) == 1
    assert f"{path} is damaged" in caplog.text
    parts.write(1, part(1))
    assert count(parts) == 3


def test_every_flipped_bit_of_a_part_is_noticed_or_changes_nothing(parts):
    path = parts._path(0)
    data = path.read_bytes()
    want = part(0)
    for place in np.random.default_rng(0).integers(0, len(data), 100):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        read = parts.read(1)
        if read:
            assert read[0].skipped == want.skipped
            for name, array in want.rows.items():
                np.testing.assert_array_equal(read[0].rows[name], array)


@pytest.mark.parametrize(
    "others",
    [
        {"text": np.zeros((4, 3))},
        {"image": np.zeros((4, 5), np.float32)},
        {"image": np.zeros((4, 3), np.float64)},
        {"image": np.zeros((3, 3), np.float32)},
        {"index": np.arange(4)},
        {"image": np.array([None] * 4)},
    ],
    ids=["another output", "another width", "another type", "too few", "another place", "objects"],
)
def test_a_part_of_other_rows_is_not_used(others, parts):
    parts.write(1, part(1, **others))
    assert count(parts) == 1


def test_a_full_disk_stops_the_keeping_and_not_the_evaluation(parts, monkeypatch, caplog):
    def full_disk(*args, **others):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    for number in (3, 4):
        parts.write(number, part(number))
    assert caplog.text.count("can't be kept") == 1
    assert count(parts) == 3
    assert not list(parts.directory.glob(".*"))
