import json
import pickle

import numpy as np
import pytest

from toklip_jax.data.build import Batching, evaluation_batches
from toklip_jax.data.health import BadSample
from toklip_jax.data.sources import SourceConfig


def row(number, split, captions=5, directory="val2014"):
    """An image as dataset_coco.json describes it."""
    sentences = [
        {"tokens": ["one"], "raw": f"one circle {number}.{i} ", "imgid": number, "sentid": i}
        for i in range(captions)
    ]
    found = {"filename": f"{number}.jpg", "split": split, "imgid": number, "sentences": sentences}
    return found | ({"filepath": directory, "cocoid": 7} if directory else {})


def write(root, rows, raw):
    for number, one in enumerate(rows):
        path = root / one.get("filepath", "") / one["filename"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw.jpeg(4 * number))
    (root / "dataset.json").write_text(json.dumps({"images": rows, "dataset": "x"}))
    return {"kind": "karpathy", "annotations": f"{root}/dataset.json", "images": f"{root}/"}


def test_a_split_gives_its_images_and_their_first_captions(tmp_path, raw):
    rows = [
        row(0, "test"),
        row(1, "restval", captions=1, directory="train2014"),  # not asked for
        row(2, "test", captions=7),
        row(3, "val"),
    ]
    config = write(tmp_path, rows, raw)
    source = SourceConfig.from_plain(config).open()
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert len(one) == 2
        assert one[0] == {"image": raw.jpeg(0), "text": "one circle 0.0 "}
        assert one[1] == {"image": raw.jpeg(8), "text": "one circle 2.0 "}
        assert [one.key(i) for i in range(2)] == ["val2014/0.jpg", "val2014/2.jpg"]
        assert one.texts() == [[f"one circle {i}.{j} " for j in range(5)] for i in (0, 2)]
    assert SourceConfig.from_plain(config | {"split": "val", "num_captions": 2}).open().texts() == [
        ["one circle 3.0 ", "one circle 3.1 "]
    ]


def test_flickrs_images_lie_in_one_directory(tmp_path, raw):
    source = SourceConfig.from_plain(write(tmp_path, [row(5, "test", directory=None)], raw)).open()
    assert (source.key(0), source[0]["image"]) == ("5.jpg", raw.jpeg(0))


def test_an_image_that_is_gone_is_a_row_that_does_not_count(tmp_path, raw, tokenizer):
    config = write(tmp_path, [row(i, "test") for i in range(5)], raw)
    (tmp_path / "val2014/1.jpg").unlink()
    with pytest.raises(BadSample, match="missing image"):
        SourceConfig.from_plain(config).open()[1]
    source = SourceConfig.from_plain(config)
    batches = list(evaluation_batches(source, Batching(2, 16), tokenizer=tokenizer))
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.tolist() == [True, False, True, True, True, False]
    assert [batch["skipped"] for batch in batches] == [[("val2014/1.jpg", "missing image")], [], []]
    assert batches[0]["token_ids"].shape == (2, 8)


@pytest.mark.parametrize(
    ("content", "change", "error", "message"),
    [
        (None, {}, FileNotFoundError, r"found no file .*dataset.json"),
        ("[]", {}, ValueError, "layout of dataset_coco.json"),
        ("{", {}, ValueError, "layout of dataset_coco.json"),
        ('{"images": []}', {}, ValueError, "no images"),
        ('{"images": [{"split": "test"}]}', {}, ValueError, "wrong: 'filename'"),
        ('{"images": ["a.jpg"]}', {}, ValueError, "layout of dataset_coco.json"),
        ([row(0, "test")], {"split": "tets"}, ValueError, "got 'tets': did you mean 'test'"),
        ([row(0, "test"), row(1, "test", 4)], {}, ValueError, "expected 5 captions.*val2014/1.jpg"),
        ([row(0, "test")], {"num_captions": 0}, ValueError, "num_captions of at least 1, got 0"),
        ([row(0, "test")], {"num_caption": 5}, ValueError, "did you mean 'num_captions'"),
    ],
)
def test_a_wrong_file_or_argument_is_one_clear_error(tmp_path, content, change, error, message):
    path = tmp_path / "dataset.json"
    if content is not None:
        is_text = isinstance(content, str)
        path.write_text(content if is_text else json.dumps({"images": content}))
    config = {"kind": "karpathy", "annotations": str(path), "images": str(tmp_path)}
    with pytest.raises(error, match=message):
        SourceConfig.from_plain(config | change).open()


def test_annotations_that_take_many_times_their_size_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("toklip_jax.data.sources.karpathy._CONTAINERS", 1000)
    path = tmp_path / "dataset.json"
    path.write_bytes(b'{"images": [' + b"[]," * 1000 + b"[]]}")
    config = {"kind": "karpathy", "annotations": str(path), "images": ""}
    with pytest.raises(ValueError, match=r"of which 1,000 are lists and objects.*dataset\.json"):
        SourceConfig.from_plain(config).open()


def test_names_and_captions_that_are_no_text_spoil_their_own_row_only(tmp_path, raw, tokenizer):
    rows = [row(i, "test", 1) for i in range(3)]
    config = write(tmp_path, rows, raw) | {"num_captions": 1}
    rows[0]["filename"], rows[1]["sentences"][0]["raw"] = "\ud800.jpg", "\ud800"
    (tmp_path / "dataset.json").write_text(json.dumps({"images": rows}))
    config = SourceConfig.from_plain(config)
    (batch,) = evaluation_batches(config, Batching(3, 16), tokenizer=tokenizer)
    assert batch["mask"].tolist() == [False, False, True]
    causes = {cause for _, cause in batch["skipped"]}
    assert causes == {"missing image", "non-UTF-8 text"}
