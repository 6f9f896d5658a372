"""A folder's classes are its directories, whatever they hold."""

import pytest

from toklip_jax.data.health import BadSample
from toklip_jax.data.sources import SourceConfig
from toklip_jax.data.sources.image_folder import LOOP, NO_CLASS, OTHER_FORMAT


def test_an_image_folders_classes_are_its_directories(tmp_path, raw):
    for name in ("cat/2.jpg", "cat/sub/1.PNG", "bird/é.jpeg", "bird/notes.txt", ".hid/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "stray.jpg").write_bytes(b"")
    (tmp_path / "cat/3.HEIC").write_bytes(b"")
    source = SourceConfig.from_plain({"kind": "image_folder", "root": f"{tmp_path}/"}).open()
    assert source.classes == ("bird", "cat")
    found = {source.key(i): source[i] for i in range(len(source))}
    assert found == {
        "bird/é.jpeg": {"image": "bird/é.jpeg".encode(), "label": 0},
        "cat/2.jpg": {"image": b"cat/2.jpg", "label": 1},
        "cat/sub/1.PNG": {"image": b"cat/sub/1.PNG", "label": 1},
    }
    assert source.problems == [("cat/3.HEIC", OTHER_FORMAT), ("stray.jpg", NO_CLASS)]
    (tmp_path / "cat/2.jpg").unlink()
    with pytest.raises(BadSample, match="missing image"):
        source[1]


def test_linked_and_empty_directories_are_classes_too(tmp_path, raw, caplog):
    raw.make_folder(tmp_path, "root/cat/0.jpg", "disk/bird/1.jfif", "root/.hid/0.jpg")
    (tmp_path / "root/ant").mkdir()
    (tmp_path / "root/bird").symlink_to(tmp_path / "disk/bird")
    (tmp_path / "root/cat/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/itself").symlink_to(tmp_path / "root/itself")
    source = SourceConfig.from_plain({"kind": "image_folder", "root": f"{tmp_path}/root"}).open()
    assert source.classes == ("ant", "bird", "cat")
    assert [source[i]["label"] for i in range(len(source))] == [1, 2]
    assert source.problems == [("cat/up", LOOP)]
    assert "1 of 3 classes" in caplog.text
    assert "have no picture: ant" in caplog.text


def test_named_classes_number_several_folders_alike(tmp_path, raw):
    raw.make_folder(tmp_path, "a/cat/0.jpg", "a/dog/0.jpg", "a/other/0.jpg", "b/dog/0.jpg")
    config = {"kind": "image_folder", "classes": ("dog", "cat")}
    source = SourceConfig.from_plain(config | {"root": f"{tmp_path}/a"}).open()
    assert (source.classes, source[0]["label"], source[1]["label"]) == (("dog", "cat"), 1, 0)
    with pytest.raises(ValueError, match="found none for cat"):
        SourceConfig.from_plain(config | {"root": f"{tmp_path}/b"}).open()


def test_directories_of_splits_are_no_classes(tmp_path, raw):
    raw.make_folder(tmp_path, "Train/cat/0.jpg", "val/cat/0.jpg")
    config = {"kind": "image_folder", "root": str(tmp_path)}
    with pytest.raises(ValueError, match="Train, val, which are names of splits: set root to one"):
        SourceConfig.from_plain(config).open()
    assert len(SourceConfig.from_plain(config | {"classes": ("Train", "val")}).open()) == 2
