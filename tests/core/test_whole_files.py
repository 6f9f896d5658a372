import os
import pathlib
import re

import pytest

import toklip_jax
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import MAX_BYTES, read_object, write_json, write_whole


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert read_object(path, "evaluate again") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_draft_that_a_killed_process_left_is_no_obstacle(tmp_path):
    (tmp_path / ".results.md").write_text("half of a ta")
    write_whole(tmp_path / "results.md", "a table\n")
    assert (tmp_path / "results.md").read_text() == "a table\n"
    assert not (tmp_path / ".results.md").exists()


def test_a_draft_of_the_longest_name_has_a_name_that_is_no_longer(tmp_path):
    path = tmp_path / ("é" * 127 + "a")  # 255 bytes
    write_whole(path, "a table\n")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


NO_OBJECTS = {
    "empty": b"",
    "cut off": b"{",
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "no text": b"\xff\xfe{",
    "too deep": b"[" * 100_000,
    "too large": b"{" + b" " * MAX_BYTES + b"}",
}


@pytest.mark.parametrize("content", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_what_is_no_json_object_is_one_line_that_names_the_file_and_the_remedy(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is damaged \(.*\): restore it") as raised:
        read_object(path, "restore it")
    assert "\n" not in str(raised.value)


def test_the_home_of_nobody_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_user("~/a") == tmp_path / "a"
    assert expand_user("~no_such_user/a") == pathlib.Path("~no_such_user/a")


# These write drafts that are renamed, files in a new directory that is, or notes for people.
WRITERS = set(
    """
    description.py export.py faults.py generate.py header.py lengths.py npz.py ownership.py parts.py
    safetensors.py sharded.py tar_index.py whole_files.py
    """.split()
)


def test_no_other_module_writes_a_file_in_place():
    package = pathlib.Path(toklip_jax.__file__).parent
    writing = re.compile(r"\.write_(text|bytes)\(|open\([^()]*\"wb?\"")
    found = {path.name for path in package.rglob("*.py") if writing.search(path.read_text())}
    assert found == WRITERS
