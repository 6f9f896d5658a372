"""Tables of paths, captions and labels: every row is read or named."""

import pickle

import pyarrow
import pyarrow.parquet
import pytest

from toklip_jax.data.health import BadSample
from toklip_jax.data.sources import SourceConfig
from toklip_jax.data.sources.table import TableSource
from toklip_jax.data.sources.table_files import RAGGED


def table(tmp_path, data, **config):
    path = tmp_path / ("t.tsv" if config.get("delimiter") == "\t" else "t.csv")
    path.write_bytes(data.encode())
    config = {"kind": "table", "path": str(path)} | config
    return SourceConfig.from_plain(config).open()


def all_texts(source, monkeypatch):
    monkeypatch.setattr("toklip_jax.data.sources.table.read_image_bytes", lambda path: b"img")
    return [source[i]["text"].decode() for i in range(len(source))]


QUOTED = ['"a red dog', "a cat", 'one "big" dog', 'the end"', "four"]


def test_quotes_of_a_tsv_are_part_of_its_texts(tmp_path, monkeypatch):
    data = "image\ttext\n" + "".join(f"{i}.png\t{text}\n" for i, text in enumerate(QUOTED))
    assert all_texts(table(tmp_path, data, delimiter="\t"), monkeypatch) == QUOTED
    rows = data.replace("\t", ",")
    assert all_texts(table(tmp_path, rows, quotes=False), monkeypatch) == QUOTED
    enclosed = 'image\ttext\na\t"one\ttab\nand line"\n'
    source = table(tmp_path, enclosed, delimiter="\t", quotes=True)
    assert all_texts(source, monkeypatch) == ["one\ttab\nand line"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['"a red dog', "a cat", 'one "big" dog'], "line 4"),
        (['"unclosed', "a cat"], "line 3"),
        (['"a" and "b"'], "line 2"),
    ],
)
def test_quotes_that_enclose_no_whole_value_are_named(tmp_path, rows, line):
    data = "image,text\n" + "".join(f"{i}.png,{text}\n" for i, text in enumerate(rows))
    with pytest.raises(ValueError, match=f"{line} .*: set quotes=False"):
        table(tmp_path, data)


def test_a_guess_about_quotes_that_may_be_wrong_is_said_with_the_remedy(tmp_path, caplog):
    joined = 'image,text\n0,"a\n1,b"\n'
    assert len(table(tmp_path, joined)) == 1
    assert "1 lines of" in caplog.text
    assert "set quotes=False" in caplog.text
    caplog.clear()
    table(tmp_path, 'image\ttext\n0\t"a"\n', delimiter="\t")
    assert "1 of the first values" in caplog.text
    assert "set quotes=True" in caplog.text
    caplog.clear()
    table(tmp_path, joined, quotes=True)
    table(tmp_path, 'image\ttext\n0\t"a"\n', delimiter="\t", quotes=False)
    assert caplog.text == ""


def test_a_row_of_other_columns_and_a_long_value_spoil_no_other_row(tmp_path, monkeypatch):
    data = f"image,text\n0,a\n1,b,c\n2,{'d' * 3_000_000}\n"
    source = table(tmp_path, data)
    assert [text[0] for text in all_texts(source, monkeypatch)] == ["a", "d"]
    assert source.problems == [("t.csv:line 3", RAGGED)]


def test_a_table_that_changes_while_it_is_used_is_named(tmp_path):
    source = table(tmp_path, "image,text\na,b\n")
    in_a_worker = pickle.loads(pickle.dumps(source))
    table(tmp_path, "image,text\na,b\nc,d\n")
    with pytest.raises(ValueError, match=r"t\.csv as it was .* changed since"):
        in_a_worker[0]


def parquet(tmp_path, columns, **config):
    path = f"{tmp_path}/t.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return SourceConfig.from_plain({"kind": "table", "path": path, "text": None} | config).open()


def test_hugging_faces_images_are_their_bytes_or_their_path(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"file")
    images = [{"bytes": b"x", "path": "no"}, {"bytes": None, "path": "a.jpg"}, None]
    source = parquet(tmp_path, {"image": images})
    assert [source[0]["image"], source[1]["image"]] == [b"x", b"file"]
    with pytest.raises(BadSample, match="missing image"):
        source[2]


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"image": [1]}, {}, "paths, encoded images or {bytes, path} in the column 'image'"),
        ({"image": [["a"]]}, {}, "encoded images"),
        ({"image": [{"a": 1}]}, {}, "encoded images"),
        ({"image": [{"bytes": 1, "path": "a"}]}, {}, "encoded images"),
        ({"image": ["a"], "t": [["one", "two"]]}, {"text": "t"}, "texts in the column 't' .* list"),
        ({"image": ["a"], "t": [7]}, {"text": "t"}, "got int64"),
        ({"image": ["a"], "y": [["a"]]}, {"label": "y"}, "whole numbers in the column 'y'"),
        ({"image": ["a"], "y": ["cat"]}, {"label": "y"}, "got 'cat': number the classes"),
        ({"image": ["a"], "y": [3.7]}, {"label": "y"}, "got 3.7"),
    ],
)
def test_a_column_of_another_type_is_refused_when_the_table_is_opened(
    tmp_path, columns, config, message
):
    with pytest.raises(ValueError, match=message):
        parquet(tmp_path, columns, **config)


CSV = b'text,file,n\n007,a.jpg,3\n"two, ""lines""\nof text",a.jpg,x\n,none.jpg,1\n\xff,,1\n'


def test_a_csv_gives_paths_relative_to_it_and_text_as_it_stands(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"img")
    (tmp_path / "t.csv").write_bytes(CSV)
    source = SourceConfig.from_plain(
        {"kind": "table", "path": f"{tmp_path}/t.csv", "image": "file"}
    ).open()
    assert len(source) == 4
    assert source[0] == {"image": b"img", "text": b"007"}
    assert source[1] == {"image": b"img", "text": b'two, "lines"\nof text'}
    assert source.key(1) == "t.csv:1"
    for row in (2, 3):  # no such file, and no path
        with pytest.raises(BadSample, match="missing image"):
            source[row]
    config = {"kind": "table", "path": f"{tmp_path}/t.csv", "image": "file", "label": "n"}
    labelled = SourceConfig.from_plain(config | {"text": None}).open()
    assert labelled[0] == {"image": b"img", "label": b"3"}
    assert labelled[1] == {"image": b"img", "label": b"x"}


def test_a_parquet_file_gives_paths_or_the_images_themselves(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"img")
    path = f"{tmp_path}/t.parquet"
    columns = {
        "p": ["a.jpg", f"{tmp_path}/images/a.jpg", None],
        "bytes": [b"1", b"2", b""],
        "c": ["ä", None, "z"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    config = {"kind": "table", "path": path, "text": "c"}
    paths = SourceConfig.from_plain(config | {"image": "p", "root": f"{tmp_path}/images/"}).open()
    paths = pickle.loads(pickle.dumps(paths))
    assert [paths[0], paths[1]] == [{"image": b"img", "text": "ä"}, {"image": b"img", "text": None}]
    inline = SourceConfig.from_plain(config | {"image": "bytes"}).open()
    assert inline[1] == {"image": b"2", "text": None}
    for source in (paths, inline):
        with pytest.raises(BadSample, match="missing image"):
            source[2]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'image,"a, b"\n', "a, b"),
        (b'image,"a ""b"""\n', 'a "b"'),
        (b'"image","a\nb"\n', "a\nb"),
        (b"\nimage,text\n", "text"),
        (b"image,text\n", "image"),  # one column for two fields
    ],
)
def test_a_column_may_have_any_name(tmp_path, monkeypatch, head, name):
    source = table(tmp_path, (head + b"x,x\n").decode(), text=name)
    assert all_texts(source, monkeypatch) == ["x"]


@pytest.mark.parametrize("delimiter", ["", ";;", "\n", '"', "é", "\0"])
def test_what_cannot_separate_columns_is_refused(tmp_path, delimiter):
    with pytest.raises(ValueError, match="delimiter of one ASCII character"):
        table(tmp_path, "image,text\na,b\n", delimiter=delimiter)


def test_a_name_of_a_column_that_is_no_text_is_one_clear_error(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"image,te\xff\na,b\n")
    with pytest.raises(ValueError, match=r"expected a CSV of 2 columns, got .*t\.csv"):
        TableSource(f"{tmp_path}/t.csv", text="te\ufffd")


def test_parquet_whose_text_is_none_spoils_its_own_row_only(tmp_path):
    """Parquet says that it is UTF-8, and nothing checks it."""
    (tmp_path / "a").write_bytes(b"img")
    raw = pyarrow.array([b"\xff", b"a"], pyarrow.binary())
    odd = pyarrow.StringArray.from_buffers(2, *raw.buffers()[1:])
    texts = parquet(tmp_path, {"image": ["a", "a"], "t": odd}, text="t")
    with pytest.raises(UnicodeDecodeError):
        texts[0]["text"].decode()
    assert texts[1]["text"] == "a"
    images = parquet(tmp_path, {"image": odd})
    with pytest.raises(BadSample, match="missing image"):
        images[0]
    assert images[1] == {"image": b"img"}


def test_parquet_that_stands_for_more_than_it_may_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("toklip_jax.data.sources.table_files._DECODED_BYTES", 2**16)
    columns = {"image": ["x" * 1000] * 10_000}
    with pytest.raises(ValueError, match=r"at most .* GiB in .* image of .*t\.parquet"):
        parquet(tmp_path, columns)
    assert len(parquet(tmp_path, {"image": [f"{i}" for i in range(5000)]})) == 5000


def test_a_page_of_parquet_that_fails_its_checksum_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    columns = pyarrow.table({"image": [f"{i:09}" for i in range(999)]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pyarrow.parquet.write_table(columns, path, **options)
    path.write_bytes(path.read_bytes().replace(b"000000500", b"000000400"))
    with pytest.raises(ValueError, match=r"expected a Parquet file, got .*t\.parquet: .*CRC"):
        TableSource(str(path), text=None)
