"""The commands on folders of images, as docs/commands.md has them, with small weights."""

import csv
import json
import pathlib
import re
import shlex

import numpy as np
import PIL.Image
import pytest

import toklip_jax
from toklip_jax.cli.text_search import print_table
from toklip_jax.cli.toklip import main
from toklip_jax.data.text import TextTokenizer, train_tokenizer

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "commands.md"
VQ = ROOT / "tests" / "weights" / "format_1" / "vq"
GOOD = ["animals/cat.png", "animals/dog.jpg", "apple.png", "pear.png", "pear.webp"]


@pytest.fixture(scope="module")
def directory(golden, tmp_path_factory):
    """Images, two of them broken, a text tokenizer, and labels."""
    directory = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for name in GOOD:
        path = directory / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    (directory / "photos" / "broken.png").write_bytes(b"no picture")
    (directory / "photos" / "notes.txt").write_text("no picture either")
    (directory / "photos" / "vector.svg").write_text("<svg/>")
    TextTokenizer(train_tokenizer(["a dog", "a red apple", "a photo of a cat"], 64), 16).save(
        directory
    )
    (directory / "labels.txt").write_text("cat\ndog\napple\n")
    (directory / "toklip_s_256").symlink_to(golden("toklip_tiny/checkpoint.pt"))
    return directory


@pytest.fixture
def run(directory, golden, monkeypatch, capsys):
    """`run("search", ...)` is the command in that directory: its status, output and errors."""
    monkeypatch.chdir(directory)
    weights = golden("toklip_tiny/checkpoint.pt")

    def run(*arguments):
        capsys.readouterr()
        status = main([a.replace("=toklip_s_256", f"={weights}") for a in arguments])
        out = capsys.readouterr()
        return status, out.out, out.err

    return run


@pytest.fixture(scope="module")
def toklip(golden, directory):
    return toklip_jax.load(golden("toklip_tiny/checkpoint.pt"), tokenizer=directory)


def read(directory, toklip):
    images = [PIL.Image.open(directory / "photos" / name).convert("RGB") for name in GOOD]
    return np.asarray(toklip.tokenize(images))


def test_the_examples_of_the_page_run(run, directory, toklip):
    """All that is about folders, in its order: each leaves what the next one needs."""
    block = re.search(r"<!-- tested -->\n+((?:    .*\n|\n)+)", PAGE.read_text())[1]
    lines = block.replace("\\\n", "").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.strip()]
    assert [command[:2] for command in commands] == [
        ["toklip", name]
        for name in ("tokenize", "tokenize", "decode", "embed", "search", "search", "classify")
    ]
    for command in commands:
        status, out, err = run(*command[1:])
        assert status == 0, err
        assert "broken.png" in err or command[1] == "decode" or "features.npz" in command[2]
        assert out
    with np.load(directory / "ids.npz") as arrays:
        assert arrays["names"].tolist() == GOOD
        np.testing.assert_array_equal(arrays["ids"], read(directory, toklip))
        assert json.loads(str(arrays["about"]))["grid"] == [4, 4]
    assert sorted(p.name for p in (directory / "decoded").rglob("*.png")) == [
        "apple.png", "cat.png", "dog.png", "pear.png.png", "pear.webp.png",
    ]  # fmt: skip
    with (directory / "labels.csv").open() as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == GOOD
    assert {row[1] for row in rows} <= {"cat", "dog", "apple"}


def test_parquet_has_the_layout_of_caches_and_decodes_to_the_same(run, directory, toklip):
    import pyarrow.parquet

    assert run("tokenize", "photos", "rows.parquet", "--weights=toklip_s_256")[0] == 0
    table = pyarrow.parquet.read_table(directory / "rows.parquet")
    assert table.column_names == ["image_tokens", "caption", "name"]
    ids = read(directory, toklip)
    np.testing.assert_array_equal(table["image_tokens"].to_pylist(), ids)
    assert run("decode", "rows.parquet", "out", "--weights=toklip_s_256")[0] == 0
    got = np.asarray(PIL.Image.open(directory / "out" / "apple.png"))
    want = (np.asarray(toklip.detokenize(ids[2:3]))[0] + 1) * 127.5
    np.testing.assert_allclose(got, want, atol=0.51)


def test_what_is_left_out_is_counted_and_named(run):
    _, _, err = run("tokenize", "photos", "few.npz", "--weights=toklip_s_256", "--batch-size=2")
    assert "left out 1 of 6 samples tried (16.67%), and 1 left out of the data" in err
    assert "not an image: 1: broken.png" in err
    assert "vector.svg" in err
    assert "notes.txt" not in err


def test_nothing_is_overwritten_unless_asked_for(run, directory):
    (directory / "mine.npz").write_bytes(b"mine")
    arguments = "tokenize", "photos", "mine.npz", "--weights=toklip_s_256"
    status, _, err = run(*arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert "expected a new file, got mine.npz, which exists" in err
    assert (directory / "mine.npz").read_bytes() == b"mine"
    assert run(*arguments, "--overwrite")[0] == 0
    assert "16 ids each" in run(*arguments, "--overwrite")[1]


def test_names_do_not_lead_out_of_the_folder(run, directory):
    assert run("tokenize", "photos", "bad.npz", "--weights=toklip_s_256")[0] == 0
    with np.load(directory / "bad.npz") as arrays:
        content = dict(arrays)
    content["names"][0] = "../x.png"
    np.savez(directory / "bad.npz", **content)
    status, _, err = run("decode", "bad.npz", "out2", "--weights=toklip_s_256")
    assert status == 2
    assert "expected names of files within the folder, got '../x.png'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokenize", "photos", "a.csv"), "expected a file *.npz or *.parquet, got a.csv"),
        (("tokenize", "none", "b.npz"), "expected a directory of images, found none at none"),
        (("tokenize", "labels.txt", "b.npz"), "images, got the file labels.txt"),
        (("tokenize", "empty", "b.npz"), "expected images in empty, found none"),
        (("tokenize", "broken", "b.npz"), "expected images in broken that can be read"),
        (("decode", "labels.txt", "out3"), "expected ids in labels.txt, as toklip writes them"),
        (("decode", "photos", "out3"), "expected a file of ids, got the directory photos"),
        (("decode", "no.npz", "out3"), "expected a file of ids, found nothing at no.npz"),
        (("classify", "photos", "--labels=cat"), "expected a text file or classes among"),
        (("classify", "photos", "--labels=cat,"), "expected several labels with commas"),
        (("search", "photos"), "expected text, got none: see toklip search --help"),
        (
            ("search", "photos", "a dog", "cat"),
            "expected FOLDER and TEXT and flags only, got 'cat'",
        ),
        (("embed", "photos", "c.npz", "--batch-size=0"), "expected a whole number of at least 1"),
        (("embed", "photos", "c.npz", "--bach-size=8"), "did you mean --batch-size?"),
    ],
)
def test_bad_input_is_one_clear_line(run, directory, arguments, message):
    for folder in ("empty", "broken"):
        (directory / folder).mkdir(exist_ok=True)
    (directory / "broken" / "a.png").write_bytes(b"no picture")
    status, _, err = run(*arguments, "--weights=toklip_s_256", *TOKENIZER.get(arguments[0], ()))
    assert status == 2
    assert message in err
    assert err.strip().splitlines()[-1].startswith(("error: ", "  "))


TOKENIZER = dict.fromkeys(("classify", "search"), ("--tokenizer=.",))


def test_commands_of_features_say_whose_weights_they_take(run):
    status, _, err = run("embed", "photos", "d.npz", f"--weights={VQ}")
    assert status == 2
    assert "expected the weights of TokLIP in --weights, got VQTokenizer(" in err


def test_ids_of_other_weights_are_refused(run, directory):
    assert run("tokenize", "photos", "other.npz", "--weights=toklip_s_256")[0] == 0
    with np.load(directory / "other.npz") as arrays:
        content = dict(arrays)
    content["about"] = np.array(json.dumps({"vq_sha256": "1", "weights": "b.pt", "grid": [4, 4]}))
    np.savez(directory / "other.npz", **content)
    status, _, err = run("decode", "other.npz", "out4", "--weights=toklip_s_256")
    assert status == 2
    assert "expected what these weights made in other.npz, got that of b.pt" in err


def test_a_name_is_printed_on_one_line_and_steers_no_terminal(capsys):
    print_table([("0.5", "a\n\x1b[2J.png"), ("0.4", "é b.png")])
    assert capsys.readouterr().out == "0.5\ta\\n\\x1b[2J.png\n0.4\té b.png\n"
