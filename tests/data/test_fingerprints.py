"""Data that grew, or stand in another order, are other data; a copy elsewhere is the same."""

import json
import shutil

import numpy as np
import pytest

from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.sources import ArraySource, SourceConfig
from toklip_jax.data.sources.array_record import write_array_record


def webdataset(root, raw):
    (root / "0.tar").write_bytes(raw.tar_bytes(raw.pairs(0, 2)))
    yield {"kind": "webdataset", "shards": f"{root}/*.tar"}
    (root / "0.tar").write_bytes(raw.tar_bytes(raw.pairs(1, 2)))  # as many samples


def image_folder(root, raw):
    for name in ("cat/0.jpg", "dog/0.jpg"):
        (root / name).parent.mkdir()
        (root / name).touch()
    yield {"kind": "image_folder", "root": str(root)}
    (root / "ant").mkdir()  # the labels move


def table(root, raw):
    (root / "t.csv").write_text("image,text\na,b\n")
    yield {"kind": "table", "path": f"{root}/t.csv"}
    (root / "t.csv").write_text("image,text\nb,a\n")  # as many bytes


def array_record(root, raw):
    write_array_record(root / "a", [{"image": b"x"}] * 3)
    yield {"kind": "array_record", "files": f"{root}/*"}
    write_array_record(root / "a", [{"image": b"x"}, {"image": b"xy"}, {"image": b"x"}])


def karpathy(root, raw):
    def write(caption):
        rows = [{"filename": "a", "split": "test", "sentences": [{"raw": caption}]}]
        (root / "k.json").write_text(json.dumps({"images": rows}))

    write("a dog")
    yield {"kind": "karpathy", "annotations": f"{root}/k.json", "images": "", "num_captions": 1}
    write("a cat")


def mixture(root, raw):
    parts = []
    for kind, name in ((webdataset, "a"), (table, "b")):
        (root / name).mkdir()
        parts.append(next(kind(root / name, raw)) | {"weight": 1})
    yield {"kind": "mixture", "parts": parts}
    (root / "b/t.csv").write_text("image,text\na,bc\n")


@pytest.mark.parametrize("kind", [webdataset, image_folder, table, array_record, karpathy, mixture])
def test_other_data_have_another_fingerprint_and_a_copy_has_the_same(tmp_path, raw, kind):
    root = tmp_path / "here"
    root.mkdir()
    steps = kind(root, raw)
    config = next(steps)

    def fingerprint(of):
        return data_fingerprint(SourceConfig.from_plain(of).open())

    first = fingerprint(config)
    assert fingerprint(config) == first
    shutil.copytree(root, tmp_path / "there")
    assert fingerprint(json.loads(json.dumps(config).replace("/here", "/there"))) == first
    next(steps, None)
    assert fingerprint(config) != first


def test_arrays_are_known_by_their_number():
    one, more = (data_fingerprint(ArraySource(x=np.zeros(n))) for n in (1, 2))
    assert one != more
