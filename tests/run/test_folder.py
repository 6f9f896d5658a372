"""Files of rows, and the images that are written of them: names that clash, and damaged files."""

import os

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.run.folder import IDS, Rows, map_folder, read_rows, write_images


def write(folder, names):
    """The files that images of these names are written to."""
    rows = Rows(tuple(names), np.zeros((len(names), 4), np.int32), {})
    options = {"batch_size": 2, "overwrites": False}
    write_images(folder, rows, lambda ids: np.zeros((len(ids), 2, 2, 3)), **options)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("names", "files"),
    [
        ("a.jpg b/a.webp", "a.png b/a.png"),
        ("a.jpg a.png b.png", "a.jpg.png a.png.png b.png"),
        ("a.jpg a.png a.jpg.png", "a.jpg.png a.png.png a.jpg.png.png"),
        ("x.png/b.jpg x.jpg", "x.png/b.jpg.png x.jpg.png"),
    ],
)
def test_each_image_has_a_file_of_its_own(names, files, tmp_path):
    assert write(tmp_path / "out", names.split()) == set(files.split())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.png", "b.png", "./a.png"), r"got 'a\.png' and '\./a\.png': rename"),
        (("x", "x.png/b"), r"beside each other, got 'x\.png/b' and 'x'"),
        (("b.png", "a\0.png"), r"within the folder, got 'a.*x00\.png'"),
    ],
)
def test_names_that_cannot_be_files_together_are_refused_at_once(names, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", names)
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_utf8_stay_distinct(tmp_path):
    for name in (b"\xfe.png", b"\xff.png"):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / os.fsdecode(name))
    options = {"title": "", "image_size": 8, "batch_size": 2, "resize": "squash"}
    names, _ = map_folder(tmp_path, lambda images: images[:, 0, 0], **options)
    assert names == (r"\xfe.png", r"\xff.png")
    assert len(write(tmp_path / "out", names)) == 2


def test_a_file_whose_about_is_no_object_is_another_file(tmp_path):
    path = tmp_path / "ids.npz"
    np.savez(path, ids=np.zeros((1, 4), np.int32), names=np.array(["a"]), about=np.array("[1]"))
    with pytest.raises(UserError, match=r"as toklip writes them, .*about is a list"):
        read_rows(path, IDS)
    path = tmp_path / "ids.parquet"
    pa.parquet.write_table(pa.table({"image_tokens": [[1, 2]]}), path)
    with pytest.raises(UserError, match="as toklip writes them"):
        read_rows(path, IDS)
