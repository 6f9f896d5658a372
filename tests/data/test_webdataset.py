import concurrent.futures
import json
import os
import pathlib
import pickle
import time

import fsspec
import numpy as np
import pytest

from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import expand
from toklip_jax.data.sources import SourceConfig, tar_index
from toklip_jax.data.sources.tar_samples import DOTTED, Extensions
from toklip_jax.data.sources.webdataset import WebDatasetSource

ENDS = ("jpg", "txt", "json", "caption.txt")


@pytest.fixture
def shards(tmp_path, raw):
    """Two tars of 3 and 2 samples."""
    for shard, (first, number) in enumerate([(0, 3), (3, 2)]):
        (tmp_path / f"{shard:05d}.tar").write_bytes(raw.tar_bytes(raw.pairs(first, number)))
    return tmp_path


@pytest.fixture
def scans(monkeypatch):
    """Names of the tars that are scanned."""
    seen, scan = [], tar_index.scan
    monkeypatch.setattr(tar_index, "scan", lambda tar, ext: seen.append(tar) or scan(tar, ext))
    return seen


def texts(source):
    return [source[i]["text"].decode() for i in range(len(source))]


def test_every_sample_of_every_shard_is_read_back_by_index(shards, raw):
    source = SourceConfig.from_plain(
        {"kind": "webdataset", "shards": f"{shards}/{{00000..00001}}.tar"}
    ).open()
    assert texts(source) == [f"one circle {i}" for i in range(5)]
    assert [source[i]["image"] for i in range(5)] == [raw.jpeg(4 * i) for i in range(5)]
    assert source.key(4) == "00001.tar:000000004"
    assert source.problems == []


def test_labels_and_other_extensions_are_read_where_the_config_names_them(tmp_path, raw):
    members = [("a/b.c/x.1.PNG", b"no"), ("a/b.c/y.png", b"img"), ("a/b.c/y.caption.txt", b"hi")]
    (tmp_path / "s.tar").write_bytes(raw.tar_bytes([*members, ("a/b.c/y.cls", b"7")]))
    config = {"kind": "webdataset", "shards": f"{tmp_path}/s.tar", "text": ("caption.txt",)}
    source = SourceConfig.from_plain(config).open()
    assert source[0] == {"image": b"img", "text": b"hi", "label": b"7"}
    assert source.has_labels
    assert source.problems == [("s.tar:a/b.c/x.1.PNG", DOTTED)]
    assert source.key(0) == "s.tar:a/b.c/y"


def test_members_far_apart_are_read_one_by_one(tmp_path, raw):
    members = [("x.jpg", b"img"), ("x.bin", bytes(100_000)), ("x.txt", b"hi")]
    (tmp_path / "s.tar").write_bytes(raw.tar_bytes(members))
    source = WebDatasetSource(f"{tmp_path}/s.tar")
    assert source[0] == {"image": b"img", "text": b"hi"}


def test_an_index_is_built_once_beside_the_tar_and_used_again(shards, scans):
    first = WebDatasetSource(f"{shards}/*.tar")
    assert len(scans) == 2
    assert len(list(shards.glob("00001.tar.*.index.npy"))) == 1
    again = WebDatasetSource(f"{shards}/*.tar")
    assert len(scans) == 2
    assert texts(again) == texts(first)


@pytest.mark.parametrize("change", ["size", "time", "extensions"])
def test_an_index_is_rebuilt_when_the_tar_or_the_extensions_change(shards, scans, raw, change):
    tar = shards / "00000.tar"
    WebDatasetSource(str(tar))
    config = {"kind": "webdataset", "shards": str(tar)}
    if change == "size":
        tar.write_bytes(raw.tar_bytes(raw.pairs(7, 1)))
    elif change == "time":
        data = tar.read_bytes().replace(b"one circle 0", b"one circle 7")
        tar.write_bytes(data)
        os.utime(tar, ns=(1, 1))
    else:
        config["text"] = ("json",)
    source = SourceConfig.from_plain(config).open()
    assert len(scans) == 2
    assert texts(source)[0] == {"extensions": "{}"}.get(change, "one circle 7")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("json", lambda path: path.write_text('{"tar": ')),
        ("json", lambda path: path.write_text("[" * 100_000)),
        ("json", lambda path: path.write_text("[1]")),
        ("json", lambda path: path.write_text("{}")),
        ("npy", lambda path: path.unlink()),
        ("npy", lambda path: path.write_bytes(path.read_bytes()[:200])),
        ("npy", flip_a_bit),
    ],
)
def test_a_damaged_index_is_rebuilt(shards, scans, suffix, damage):
    tar = shards / "00000.tar"
    expected = texts(WebDatasetSource(str(tar)))
    damage(next(shards.glob(f"00000.tar.*.{suffix}")))
    assert texts(WebDatasetSource(str(tar))) == expected
    assert len(scans) == 2


def test_sources_of_one_tar_with_other_extensions_never_disturb_each_other(tmp_path, raw):
    members = [(f"{i}.{end}", f"{end} {i}".encode()) for i in range(2) for end in ENDS]
    (tmp_path / "0.tar").write_bytes(raw.tar_bytes(members))
    for index_dir in (None, tmp_path / "indexes"):
        sources = [
            WebDatasetSource(f"{tmp_path}/0.tar", Extensions(text=(end,)), index_dir)
            for end in ENDS[1:]
        ]
        for source, end in zip(sources, ENDS[1:], strict=True):
            assert texts(source) == [f"{end} 0", f"{end} 1"]
            assert texts(pickle.loads(pickle.dumps(source))) == [f"{end} 0", f"{end} 1"]


def test_a_tar_that_is_replaced_while_it_is_used_is_named(tmp_path, raw):
    tar = tmp_path / "0.tar"
    tar.write_bytes(raw.tar_bytes(raw.pairs(0, 3)))
    source = WebDatasetSource(str(tar))
    tar.write_bytes(raw.tar_bytes(raw.pairs(0, 5)))
    with pytest.raises(ValueError, match=r"0\.tar as it was .* changed since: start the run again"):
        source[1]


def test_the_index_goes_to_the_users_cache_where_the_directory_is_not_writable(
    shards, scans, monkeypatch, tmp_path_factory
):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(pathlib.Path, "home", lambda: home)
    write = tar_index._write

    def refuse(stem, *rest):
        if stem.parent == shards:
            raise PermissionError("read-only")
        return write(stem, *rest)

    monkeypatch.setattr(tar_index, "_write", refuse)
    for _ in range(2):
        assert len(WebDatasetSource(f"{shards}/*.tar")) == 5
    assert len(scans) == 2
    assert len(list((home / ".cache/toklip_jax/indexes").glob("*.npy"))) == 2
    assert not list(shards.glob("*.index*"))


def test_tars_of_one_name_do_not_share_an_index(tmp_path, raw):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        data = raw.tar_bytes(raw.pairs(ord(folder), 1))
        (tmp_path / folder / "0.tar").write_bytes(data)
        os.utime(tmp_path / folder / "0.tar", ns=(1, 1))
    source = WebDatasetSource(f"{tmp_path}/{{a,b}}/0.tar", index_dir=tmp_path / "indexes")
    assert texts(source) == ["one circle 97", "one circle 98"]


def test_workers_get_paths_of_mapped_indexes_not_the_indexes(tmp_path, raw):
    sizes = []
    for number in (2, 200):
        data = raw.tar_bytes([(f"{i}.jpg", b"x") for i in range(number)])
        (tmp_path / f"{number:04d}.tar").write_bytes(data)
        source = WebDatasetSource(f"{tmp_path}/{number:04d}.tar")
        assert source[1]["image"] == b"x"  # its index is open
        sizes.append(len(pickle.dumps(source)))
        assert pickle.loads(pickle.dumps(source))[1]["image"] == b"x"
    assert isinstance(source._rows[0], np.memmap)
    assert abs(sizes[1] - sizes[0]) < 20


def test_more_shards_than_open_files_are_read(tmp_path, raw, monkeypatch):
    monkeypatch.setattr("toklip_jax.data.paths._OPEN_FILES", 2)
    for i in range(5):
        (tmp_path / f"{i}.tar").write_bytes(raw.tar_bytes(raw.pairs(i, 1)))
    source = WebDatasetSource(f"{tmp_path}/{{0..4}}.tar")
    for _ in range(2):
        assert texts(source) == [f"one circle {i}" for i in range(5)]
    assert len(source._reader._files) == 2


def test_remote_shards_are_read_through_fsspec_in_ranges(tmp_path, raw, scans, monkeypatch):
    memory = fsspec.filesystem("memory")
    for shard in range(2):
        data = raw.tar_bytes(raw.pairs(3 * shard, 3))
        memory.pipe(f"/bucket/{shard:03d}.tar", data)
    pattern = "memory://bucket/{000..001}.tar"
    source = WebDatasetSource(pattern, index_dir=tmp_path)
    assert texts(source) == [f"one circle {i}" for i in range(6)]
    assert texts(WebDatasetSource("memory://bucket/*.tar", index_dir=tmp_path)) == texts(source)
    assert len(scans) == 2
    memory.pipe("/bucket/000.tar", raw.tar_bytes(raw.pairs(8, 3)))  # of the same size
    assert WebDatasetSource(pattern, index_dir=tmp_path).key(0) == "000.tar:000000008"
    lengths = []
    cat = type(memory).cat_file

    def counted(self, path, start=None, end=None, **rest):
        lengths.append(end - start)
        return cat(self, path, start=start, end=end, **rest)

    monkeypatch.setattr(type(memory), "cat_file", counted)
    record = source[5]
    assert len(lengths) == 1
    assert lengths[0] < len(record["image"]) + 4096


@pytest.mark.parametrize(
    ("cut", "kept", "named"),
    [
        (("000000002.jpg", 10), 2, "000000002"),  # within an image
        (("000000002.txt", -300), 2, "000000002"),  # within the caption's header
        (("000000002.txt", 2), 2, "000000002"),
    ],
)
def test_a_broken_tar_tail_is_named_and_the_rest_is_kept(tmp_path, raw, cut, kept, named):
    data = raw.tar_bytes(raw.pairs(0, 3))
    name, offset = cut
    end = data.index(name.encode()) + 512 + offset
    (tmp_path / "0.tar").write_bytes(data[:end])
    for _ in range(2):  # scanned, then from the index
        source = WebDatasetSource(f"{tmp_path}/0.tar")
        assert texts(source) == [f"one circle {i}" for i in range(kept)]
        assert source.problems == [(f"0.tar:{named}", "broken tar tail")]


def test_garbage_within_a_tar_is_named_as_the_end_of_what_can_be_read(tmp_path, raw):
    data = raw.tar_bytes(raw.pairs(0, 3))
    at = data.index(b"000000001.json")
    (tmp_path / "0.tar").write_bytes(data[:at] + b"\xff" * 512 + data[at + 512 :])
    source = WebDatasetSource(f"{tmp_path}/0.tar")
    assert texts(source) == ["one circle 0"]
    assert source.problems == [("0.tar:000000001", "broken tar tail")]


def test_a_file_that_is_no_tar_is_a_problem_beside_good_ones_and_an_error_alone(shards):
    (shards / "00002.tar").write_bytes(b"<html>no such bucket</html>" * 100)
    (shards / "00003.tar").write_bytes(b"")
    source = WebDatasetSource(f"{shards}/{{00000..00003}}.tar")
    assert len(source) == 5
    assert source.problems == [(f"0000{i}.tar", "broken tar tail") for i in (2, 3)]
    with pytest.raises(ValueError, match=r"found none in 1 shards.*first 00002.tar: broken tar"):
        WebDatasetSource(f"{shards}/00002.tar")


def test_samples_without_an_image_say_so_and_labels_are_left_as_they_are(tmp_path, raw):
    members = [("a.txt", b"hi"), ("b.jpg", b"x"), ("b.cls", b"cat"), ("c.jpg", b"x")]
    (tmp_path / "0.tar").write_bytes(raw.tar_bytes(members))
    source = WebDatasetSource(f"{tmp_path}/0.tar")
    with pytest.raises(BadSample, match="missing image"):
        source[0]
    assert source[1] == {"image": b"x", "label": b"cat"}
    assert source[2] == {"image": b"x"}
    assert not source.has_labels


def test_names_that_are_not_utf8_can_be_indexed_and_shown(tmp_path, raw):
    data = raw.tar_bytes([("aXb.jpg", b"x")]).replace(b"aXb", b"a\xffb")
    header = bytearray(data)  # its checksum has to fit
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    header[148:156] = f"{checksum:06o}\0 ".encode()
    (tmp_path / "0.tar").write_bytes(bytes(header))
    assert WebDatasetSource(f"{tmp_path}/0.tar").key(0) == "0.tar:a\\xffb"


def test_missing_shards_are_all_named(shards):
    with pytest.raises(FileNotFoundError, match=r"4 shards, found no file for 2.*2\.tar.*3\.tar"):
        WebDatasetSource(f"{shards}/{{00000..00003}}.tar")


def test_the_index_says_of_which_tar_it_is(shards):
    WebDatasetSource(f"{shards}/00000.tar")
    about = json.loads(next(shards.glob("00000.tar.*.json")).read_text())
    assert about["samples"] == 3
    assert about["tar"]["size"] == (shards / "00000.tar").stat().st_size


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a{08..11}b", ["a08b", "a09b", "a10b", "a11b"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("gs://x/{9..10}.tar", ["gs://x/9.tar", "gs://x/10.tar"]),
        (("x", "y{1..2}"), ["x", "y1", "y2"]),
        ("~/x.tar", [f"{pathlib.Path.home()}/x.tar"]),
        ("simplecache::gs://x/0.tar", ["simplecache::gs://x/0.tar"]),
        ("zip://0.tar::gs://x/a.zip", ["zip://0.tar::gs://x/a.zip"]),
    ],
)
def test_braces_stand_for_ranges_and_alternatives(pattern, expected):
    assert expand(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ((), "name at least one"),
        ("", "name at least one"),
        ("x{3..1}", "range upward"),
        ("/no/such/*.tar", r"match /no/such/\*.tar, found none"),
        ("a.tar::b.tar", "which joins several by '::'"),
        ("gs://x/a.tar::gs://x/b.tar", "pass a list of them"),
        (("x.tar", "~/{0..1}.tar::y.tar"), "joins several"),
    ],
)
def test_patterns_that_name_nothing_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        expand(pattern)


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path):
    path = tmp_path / "a[1].tar"
    path.touch()
    assert expand(str(path)) == [str(path)]


def test_threads_open_one_index_at_a_time(raw, tmp_path, monkeypatch):
    """`numpy.load` in two threads of Python 3.11 raises SystemError now and then."""
    for shard in range(8):
        (tmp_path / f"{shard:05}.tar").write_bytes(raw.tar_bytes(raw.pairs(shard, 1)))
    source = WebDatasetSource(str(tmp_path / "{00000..00007}.tar"))
    load, running, most = np.load, [], []

    def slow(*args, **kwargs):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", slow)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source[i]["text"], range(8)))
    assert found == [f"one circle {i}".encode() for i in range(8)]
    assert len(most) == 8
    assert max(most) == 1
