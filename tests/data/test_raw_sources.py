import errno
import io
import json
import math
import os
import pickle
import shutil
import tarfile

import fsspec
import numpy as np
import PIL.Image
import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import RangeReader
from toklip_jax.data.record_files import write_records
from toklip_jax.data.sources import ARRAYS, ENCODED, ArraySource, SourceConfig
from toklip_jax.data.sources.array_record import write_array_record
from toklip_jax.data.sources.mixture import Mixture
from toklip_jax.data.sources.records import MAX_IMAGE_BYTES, read_image_bytes


def records(raw, number, first=0):
    return [
        {"image": raw.jpeg(4 * i), "text": f"círculo {i}", "label": i}
        for i in range(first, first + number)
    ]


def test_array_records_are_read_back_as_written_over_several_files(tmp_path, raw):
    written = records(raw, 5)
    written[1] = {"image": b"x"}  # neither text nor label
    written[3]["text"] = written[3]["text"].encode()
    assert write_array_record(tmp_path / "00.array_record", written[:3]) == 3
    assert write_array_record(tmp_path / "01.array_record", iter(written[3:])) == 2
    source = SourceConfig.from_plain(
        {"kind": "array_record", "files": f"{tmp_path}/{{00..01}}.array_record"}
    ).open()
    for one in (source, pickle.loads(pickle.dumps(source))):
        read = [one[i] for i in range(len(one))]
        assert read == [*written[:3], records(raw, 5)[3], written[4]]
    assert source.key(2) == "00.array_record:2"
    assert source.key(3) == "01.array_record:0"


def test_a_record_that_cannot_be_written_leaves_no_file(tmp_path):
    path = tmp_path / "a"
    for bad, message in [({"image": b"x", "text": b"\xff"}, "UTF-8 in record 1"), ({}, "record 1")]:
        with pytest.raises(ValueError, match=message):
            write_array_record(path, [{"image": b"x"}, bad])
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_array_record_is_a_bad_sample(tmp_path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "a"), "group_size:1")
    for data in (b"", b"\x05\0\0\0{}", b"\xff\xff\0\0\xff", b"\x01\0\0\x003"):
        writer.write(data)
    writer.close()
    source = SourceConfig.from_plain({"kind": "array_record", "files": f"{tmp_path}/a"}).open()
    for i in range(4):
        with pytest.raises(BadSample, match="not a record"):
            source[i]


def test_a_home_directory_is_expanded_in_every_path(tmp_path, raw, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    raw.make_folder(tmp_path, "data/cat/0.jpg")
    (tmp_path / "data/t.csv").write_text("image,text\ncat/0.jpg,a\n~/data/cat/0.jpg,b\n")
    rows = [{"filename": "0.jpg", "split": "test", "sentences": [{"raw": "a"}]}]
    (tmp_path / "data/k.json").write_text(json.dumps({"images": rows}))
    write_array_record(tmp_path / "data/a", [{"image": b"x"}])
    karpathy = {"annotations": "~/data/k.json", "images": "~/data/cat", "num_captions": 1}
    for config in (
        {"kind": "image_folder", "root": "~/data"},
        {"kind": "table", "path": "~/data/t.csv"},
        {"kind": "table", "path": f"{tmp_path}/data/t.csv", "root": "~/data"},
        {"kind": "karpathy", **karpathy},
        {"kind": "array_record", "files": "~/data/*a"},
    ):
        source = SourceConfig.from_plain(config).open()
        assert all(source[i]["image"] for i in range(len(source)))


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "image_folder", "root": "a::b"},
        {"kind": "table", "path": "a.csv::b.csv"},
        {"kind": "cache", "directory": "a::b"},
        {"kind": "karpathy", "annotations": "a.json::b.json", "images": ""},
    ],
)
def test_joined_paths_are_refused_by_every_source(config):
    with pytest.raises(ValueError, match="joins several by '::'"):
        SourceConfig.from_plain(config).open()


@pytest.mark.parametrize("odd", ["x" * 300, "a\0b", "loop", "/dev/zero", "pipe", "cat"])
def test_a_path_that_names_no_file_is_a_bad_sample(tmp_path, odd):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cat").mkdir()
    (tmp_path / "t.csv").write_bytes(f"image,text\n{odd},a\n".encode())
    source = SourceConfig.from_plain({"kind": "table", "path": f"{tmp_path}/t.csv"}).open()
    with pytest.raises(BadSample, match="missing image"):
        source[0]


def test_an_image_that_cannot_be_read_is_a_bad_sample_but_a_full_process_is_an_error(monkeypatch):
    for number, expected in (
        (errno.EIO, BadSample),
        (errno.EACCES, BadSample),
        (errno.EMFILE, OSError),
    ):

        def fail(path, number=number):
            raise OSError(number, "no")

        monkeypatch.setattr("toklip_jax.data.sources.records.size_of_file", fail)
        with pytest.raises(expected):
            read_image_bytes("x")


def test_an_image_file_of_a_gigabyte_is_a_bad_sample_that_is_never_read(tmp_path):
    (tmp_path / "a.jpg").touch()
    os.truncate(tmp_path / "a.jpg", MAX_IMAGE_BYTES + 1)  # without a block on the disk
    with pytest.raises(BadSample, match="too large a file"):
        read_image_bytes(str(tmp_path / "a.jpg"))
    header = tarfile.TarInfo("b.jpg")
    header.size = MAX_IMAGE_BYTES + 1
    (tmp_path / "0.tar").write_bytes(header.tobuf())
    os.truncate(tmp_path / "0.tar", MAX_IMAGE_BYTES + 2**20)
    source = SourceConfig("webdataset", {"shards": f"{tmp_path}/0.tar"}).open()
    with pytest.raises(BadSample, match="too large a file"):
        source[0]


def test_folders_and_tables_are_read_through_fsspec(raw):
    memory = fsspec.filesystem("memory")
    memory.pipe("/folder/cat/a.jpg", b"img")
    memory.pipe("/folder/t.csv", b"image,text\ncat/a.jpg,a cat\nmemory://folder/cat/a.jpg,b\n")
    folder = SourceConfig.from_plain({"kind": "image_folder", "root": "memory://folder"}).open()
    assert (folder[0], folder.key(0)) == ({"image": b"img", "label": 0}, "cat/a.jpg")
    table = SourceConfig.from_plain({"kind": "table", "path": "memory://folder/t.csv"}).open()
    assert [table[i]["image"] for i in range(2)] == [b"img", b"img"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set of 5 samples, prepared as ArrayRecord; its directory."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (9, 9)).save(buffer, "PNG")
    png = buffer.getvalue()

    class Pairs(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # elsewhere TFDS would look for the builder as a package
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
            label = tfds.features.ClassLabel(num_classes=5)
            features = {"image": image, "caption": tfds.features.Text(), "label": label}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                image = io.BytesIO(png)  # an array would need TensorFlow
                yield i, {"image": image, "caption": f"c {i}", "label": i}

    Pairs(data_dir=root, file_format="array_record").download_and_prepare()
    return f"{root}/pairs/1.0.0"


def test_tfds_is_read_without_tensorflow_and_without_decoding(prepared):
    config = {"kind": "tfds", "directory": prepared, "text": "caption", "label": "label"}
    source = SourceConfig.from_plain(config).open()
    for one in (source, pickle.loads(pickle.dumps(source))):
        read = [one[i] for i in range(len(one))]
        assert sorted(record["label"] for record in read) == list(range(5))
        assert all(record["image"].startswith(b"\x89PNG") for record in read)
        captions = [bytes(r["text"]).decode() for r in read]
        assert captions == [f"c {record['label']}" for record in read]
    assert source.key(2) == "pairs/train:2"
    assert source.classes == ("0", "1", "2", "3", "4")
    assert SourceConfig.from_plain(config | {"label": None}).open().classes is None
    assert set(SourceConfig.from_plain({"kind": "tfds", "directory": prepared}).open()[0]) == {
        "image"
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"split": "trian"}, ValueError, "got 'trian': did you mean 'train'"),
        ({"text": "image"}, ValueError, "texts in the feature 'image' .* got Image"),
        ({"label": "caption"}, ValueError, "whole numbers in the feature 'caption'"),
        ({"text": "captoin"}, ValueError, "got 'captoin': did you mean 'caption'"),
        ({"directory": "/none"}, FileNotFoundError, "data set at /none, found none"),
        ({"directory": None, "name": "no_such_set"}, FileNotFoundError, "data set at no_such_set"),
        ({"directory": None, "name": "mnist"}, FileNotFoundError, "no splits in .*mnist"),
        ({"name": "mnist"}, ValueError, "directory or name"),
        ({"split": "train["}, ValueError, r"with the split train\[, but TFDS fails"),
        ({"split": "train[5:2]"}, ValueError, "correct the name or the split"),
        ({"directory": "s3://b/x"}, ValueError, "TFDS data set at s3://b/x .*s3fs"),
        ({"directory": None, "name": "mnist:9.9.9"}, ValueError, "TFDS data set at mnist:9.9.9"),
        ({"directory": None, "name": ""}, ValueError, "but TFDS fails"),
    ],
)
def test_a_wrong_tfds_config_is_one_clear_error(prepared, change, error, message):
    with pytest.raises(error, match=message):
        SourceConfig.from_plain(
            {"kind": "tfds", "directory": prepared, "data_dir": "/none"} | change
        ).open()


def test_a_tfds_set_without_random_access_says_how_to_prepare_it(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "1.0.0")
    about = tmp_path / "1.0.0/dataset_info.json"
    about.write_text(about.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match='file_format="array_record"'):
        SourceConfig.from_plain({"kind": "tfds", "directory": f"{tmp_path}/1.0.0"}).open()


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"kind": "table", "path": "{}/t.csv", "image": "fil"}, ValueError, "mean 'file'"),
        ({"kind": "table", "path": "{}/none.csv"}, FileNotFoundError, "found no file .*none.csv"),
        ({"kind": "table", "path": "{}/head.csv"}, ValueError, "expected rows"),
        ({"kind": "table", "path": "{}/ragged.csv"}, ValueError, "expected rows .* found none"),
        ({"kind": "table", "path": "{}/twice.csv"}, ValueError, "one column 'text'"),
        (
            {"kind": "table", "path": "{}/t.parquet", "text": None},
            ValueError,
            "a Parquet file",
        ),
        ({"kind": "image_folder", "root": "{}/none"}, FileNotFoundError, "found none at"),
        ({"kind": "image_folder", "root": "{}"}, ValueError, "directory above"),
        ({"kind": "array_record", "files": "{}/{{0..1}}"}, FileNotFoundError, "no file .*0, .*1"),
        ({"kind": "array_record", "files": "gs://b/x"}, ValueError, "local"),
        ({"kind": "webdataset", "shards": "nope://x/0.tar"}, ValueError, "fsspec opens, got nope:"),
        ({"kind": "image_folder", "root": "nope://x"}, ValueError, "fsspec opens, got nope:"),
        ({"kind": "table", "path": "nope://x.csv"}, ValueError, "fsspec opens, got nope:"),
        ({"kind": "webdataset", "shard": "x"}, ValueError, "did you mean 'shards'"),
        ({"kind": "array_record", "files": "{{0..999999999999}}"}, ValueError, "at most 1,048,576"),
        (
            {"kind": "array_record", "files": "{{0..9999}}{{0..9999}}"},
            ValueError,
            "correct its ran",
        ),
        ({"kind": "table", "path": "{}/pipe.csv"}, OSError, "Invalid argument: .*pipe.csv"),
        ({"kind": "webdataset", "shards": "{}/pipe.csv"}, OSError, "Invalid argument: .*pipe.csv"),
        ({"kind": "synthetic", "vocab_size": 2**40}, ValueError, "vocab_size of at most"),
        ({"kind": "synthetic", "seed": -1}, ValueError, "a seed of at least 0"),
        ({"kind": "mixture", "parts": ()}, ValueError, "expected parts"),
        ({"kind": "mixture", "parts": ({"kind": "synthetic"},)}, ValueError, "a weight"),
    ],
)
def test_a_wrong_source_is_one_clear_error(tmp_path, config, error, message):
    (tmp_path / "t.csv").write_bytes(b"text,file,n\nx,a.jpg,3\n")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "head.csv").write_bytes(b"image,text\n")
    (tmp_path / "ragged.csv").write_bytes(b"image,text\na,b,c\n")
    (tmp_path / "twice.csv").write_bytes(b"image,text,text\na,b,c\n")
    (tmp_path / "t.parquet").write_bytes(b"not parquet")
    filled = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in config.items()}
    with pytest.raises(error, match=message):
        SourceConfig.from_plain(filled).open()


def test_a_mixture_holds_all_samples_under_their_own_names(tmp_path, raw):
    for i in range(2):
        write_array_record(tmp_path / f"{i}", records(raw, 2, first=2 * i))
    (tmp_path / "0.tar").write_bytes(raw.tar_bytes(raw.pairs(0, 2))[:4200])
    parts = (
        {"kind": "array_record", "files": f"{tmp_path}/0", "weight": 3},
        {"kind": "webdataset", "shards": f"{tmp_path}/0.tar", "weight": 0.5},
        {"kind": "array_record", "files": f"{tmp_path}/1", "weight": 1},
    )
    source = SourceConfig.from_plain({"kind": "mixture", "parts": parts}).open()
    keys = [source.key(i) for i in range(len(source))]
    assert keys == ["0:0", "0:1", "0.tar:000000000", "1:0", "1:1"]
    assert source[4]["label"] == 3
    assert source.weights == (3.0, 0.5, 1.0)
    assert source.problems == [("0.tar:000000001", "broken tar tail")]
    assert [source.following(i) for i in range(5)] == [1, 0, 2, 4, 3]


def test_weights_that_do_not_fit_are_refused():
    part = ArraySource(x=np.zeros(2))
    for parts, weights in [
        ([part], [math.nan]),
        ([part], [0.0]),
        ([part], [1.0, 1.0]),
        ([part], [-1.0]),
        ([part, part], [1e308, 1e308]),
    ]:
        with pytest.raises(ValueError, match="positive weight each"):
            Mixture(parts, weights)
    with pytest.raises(ValueError, match="none in number 1"):
        Mixture([part, ArraySource(x=np.zeros(0))], [1.0, 1.0])


def test_parts_that_number_their_classes_otherwise_get_one_numbering(tmp_path, raw):
    raw.make_folder(tmp_path, "a/cat/0.jpg", "a/dog/0.jpg", "b/bird/0.jpg", "b/dog/0.jpg")
    parts = [{"kind": "image_folder", "root": f"{tmp_path}/{name}", "weight": 1} for name in "ab"]
    source = SourceConfig.from_plain({"kind": "mixture", "parts": parts}).open()
    assert source.classes == ("cat", "dog", "bird")
    assert [source[i]["label"] for i in range(4)] == [0, 1, 2, 1]
    unknown = Mixture([ArraySource(labels=np.arange(2)), source], [1.0, 1.0])
    assert unknown.classes is None
    assert unknown[1]["labels"] == 1


def test_a_mixture_is_of_encoded_images_or_of_arrays():
    arrays = {"kind": "synthetic", "weight": 1}
    encoded = {"kind": "webdataset", "shards": "x.tar", "weight": 1}
    inner = {"kind": "mixture", "parts": [encoded], "weight": 1}

    def gives(*parts):
        return SourceConfig.from_plain({"kind": "mixture", "parts": parts}).gives

    assert gives(encoded, inner) == ENCODED
    assert gives(arrays, arrays) == ARRAYS
    with pytest.raises(ValueError, match="got synthetic: arrays, webdataset: encoded"):
        gives(arrays, encoded)


def test_a_file_stays_open_while_it_is_read(tmp_path, monkeypatch):
    """Another thread may let go of it meanwhile, and its number then be another file's."""
    (tmp_path / "a").write_bytes(b"0123456789")
    reader, pread = RangeReader(), os.pread

    def slow_pread(*args):
        reader._files.clear()
        return pread(*args)

    monkeypatch.setattr(os, "pread", slow_pread)
    assert reader.read(str(tmp_path / "a"), 2, 3) == b"234"


class Failing(fsspec.AbstractFileSystem):
    """Storage whose errors are its own package's: no OSError, and no name in them."""

    protocol = "failing"

    def _fail(self, *args, **options):
        raise RuntimeError("403: the token\nhas expired")

    info = ls = find = glob = isdir = cat_file = open = _fail


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "table", "path": "failing://x.csv"},
        {"kind": "table", "path": "failing://x.parquet"},
        {"kind": "webdataset", "shards": "failing://x.tar"},
        {"kind": "webdataset", "shards": "failing://x/*.tar"},
        {"kind": "image_folder", "root": "failing://x"},
        {"kind": "karpathy", "annotations": "failing://x.json", "images": ""},
    ],
)
def test_what_storage_raises_is_one_line_that_names_the_address(config):
    fsspec.register_implementation("failing", Failing, clobber=True)
    with pytest.raises(UserError, match=r"read failing://x.*403: the token has expired"):
        SourceConfig.from_plain(config).open()


@pytest.mark.parametrize(
    ("address", "cause"),
    [("failing://x.png", "unreadable image"), ("nope://x.png", "an address that can't be opened")],
)
def test_an_address_in_one_row_that_fails_is_a_bad_sample(tmp_path, address, cause):
    fsspec.register_implementation("failing", Failing, clobber=True)
    (tmp_path / "t.csv").write_text(f"image,text\n{address},a\n")
    source = SourceConfig.from_plain({"kind": "table", "path": f"{tmp_path}/t.csv"}).open()
    with pytest.raises(BadSample, match=cause):
        source[0]


def test_a_missing_file_of_a_chain_and_a_url_without_its_parts_are_named():
    for url in ("zip://a.csv::memory://none.zip", "reference://x.csv"):
        with pytest.raises(UserError, match=url):
            SourceConfig.from_plain({"kind": "table", "path": url}).open()


def test_array_records_that_are_replaced_are_named_by_the_process_that_comes_later(tmp_path, raw):
    write_array_record(tmp_path / "a", records(raw, 3))
    os.utime(tmp_path / "a", (0, 0))  # clocks of file systems are coarse
    source = SourceConfig.from_plain({"kind": "array_record", "files": f"{tmp_path}/a"}).open()
    assert source[2]["label"] == 2
    write_array_record(tmp_path / "a", records(raw, 2))
    with pytest.raises(UserError, match=r"/a as it was .* changed since: start the run again"):
        pickle.loads(pickle.dumps(source))[2]


def test_a_label_of_no_class_is_none_in_a_mixture():
    first = ArraySource(labels=np.array([0, -1, 2]))
    first.classes = ("a", "b")
    mixture = Mixture([first, first], [1.0, 1.0])
    assert [mixture[i]["labels"] for i in range(3)] == [0, None, None]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("features.json", b""),
        ("features.json", b"null"),
        ("features.json", b"[" * 5000),
        ("features.json", None),
        ("dataset_info.json", b"{}"),
        ("dataset_info.json", b"\xff"),
        ("pairs-train.array_record-00000-of-00001", b"junk"),
        ("pairs-train.array_record-00000-of-00001", None),
    ],
)
def test_a_damaged_tfds_directory_is_one_line_that_names_it(prepared, tmp_path, name, content):
    shutil.copytree(prepared, tmp_path / "1.0.0")
    path = tmp_path / "1.0.0" / name
    path.write_bytes(content) if content is not None else path.unlink()
    with pytest.raises(UserError, match=f"{tmp_path}/1.0.0") as error:
        SourceConfig.from_plain({"kind": "tfds", "directory": f"{tmp_path}/1.0.0"}).open()
    assert "\n" not in str(error.value)


def test_tfds_records_that_are_not_all_there_or_damaged_are_told(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "1.0.0")
    config = SourceConfig.from_plain({"kind": "tfds", "directory": f"{tmp_path}/1.0.0"})
    write_records(tmp_path / "1.0.0/pairs-train.array_record-00000-of-00001", [b"x"] * 5)
    with pytest.raises(BadSample, match="damaged record"):
        config.open()[0]
    write_records(tmp_path / "1.0.0/pairs-train.array_record-00000-of-00001", [b"x"] * 4)
    with pytest.raises(UserError, match=r"expected 5 records in .*-of-00001, got 4"):
        config.open()
