"""The command that lists the weights which can be loaded by name."""

import json
import pathlib

import pytest

import toklip_jax
from tests.weights.hub_stand_in import Hub, point_to, serving
from toklip_jax.cli.models import main, markdown_table
from toklip_jax.models.releases import File, Release, Snapshot, readable_size
from toklip_jax.weights import catalogue

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"


def test_it_lists_every_name(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [each.name for each in toklip_jax.list_models()]
    assert max(map(len, lines)) <= 100


def test_one_name_gives_its_page_licence_and_files(capsys):
    assert main(["toklip-s-256"]) == 0
    out = capsys.readouterr().out
    for text in (
        "page: https://huggingface.co/TencentARC/TokLIP",
        "not for use within the European Union",
        "https://github.com/TencentARC/TokLIP/blob/main/LICENSE",
        "TokLIP_S_256.pt: https://huggingface.co/TencentARC/TokLIP/resolve/main/TokLIP_S_256.pt",
        "tokenizer.json: https://",
    ):
        assert text in out
    assert main(["chameleon-7b-vq"]) == 0
    assert "access: accept the licence on the page" in capsys.readouterr().out


def test_a_misspelt_name_is_one_line(capsys):
    for arguments in (["toklip-s-265"], ["--fetch", "toklip-s-265"]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "did you mean 'toklip-s-256'?" in line


def test_json_has_all_that_is_known(capsys):
    assert main(["--json"]) == 0
    models = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    vq = models["llamagen-vq-16-t2i"]
    assert vq["files"]["files"][0]["size"] == 287_920_306
    assert vq["files"]["revision"].startswith("276f5c5")
    assert models["toklip-s-256"]["files"]["revision"] is None
    assert models["ibq-262144"]["total_size"] is None


def test_fetch_prints_where_the_files_are(capsys, tmp_path, monkeypatch):
    hub, file = Hub(), tmp_path / "weights.pt"
    file.write_bytes(b"x" * 100)
    hub.add("me/tiny", weights__pt=file)
    snapshot = Snapshot("me/tiny", (File("weights.pt", 100),))
    release = Release("tiny", "Tiny", "MIT", snapshot, tokenizer=snapshot)
    monkeypatch.setattr(catalogue, "list_models", lambda: [release])
    with serving(hub) as address:
        point_to(address, tmp_path / "cache", monkeypatch)
        assert main(["--fetch", "tiny"]) == 0
    weights, tokenizer = capsys.readouterr().out.splitlines()
    assert pathlib.Path(weights).read_bytes() == file.read_bytes()
    assert tokenizer == weights


def test_the_page_s_table_is_the_catalogue_s():
    table = markdown_table(toklip_jax.list_models())
    assert f"\n\n{table}\n\n" in PAGE.read_text(), (
        "replace the table of docs/models.md by what `toklip models --markdown` prints"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (287_920_306, "288 MB"), (999_999, "1 MB"),
     (3_099_048_319, "3.1 GB"), (12_386_725_354, "12.4 GB"), (8_310_000_000, "8.31 GB")],
)  # fmt: skip
def test_sizes_read_as_on_the_hub_s_pages(size, text):
    assert readable_size(size) == text
