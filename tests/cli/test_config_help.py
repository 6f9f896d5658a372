"""Configs by name, and their fields as help lists them."""

import pathlib
import re

import pytest

from toklip_jax.cli.command_line import experiment_of
from toklip_jax.cli.config_names import config_file, packaged_configs
from toklip_jax.cli.train import main, parse

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
UNSAID = r"\.(kind|model|augment)\b|source\.|\.(train|test|baseline)\."  # of kinds of their own


def help_of(config, capsys):
    with pytest.raises(SystemExit) as ended:
        main([f"--config={config}", "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_a_config_is_found_by_its_name():
    assert packaged_configs() == sorted(path.stem for path in CONFIGS.glob("*.py"))
    name, options = config_file("demo:vq=ibq").split(":")
    assert pathlib.Path(name).read_text() == (CONFIGS / "demo.py").read_text()
    assert options == "vq=ibq"


def test_a_file_that_exists_comes_first(tmp_path, monkeypatch):
    (tmp_path / "demo").write_text("")
    monkeypatch.chdir(tmp_path)
    assert config_file("demo") == "demo"
    assert config_file("none/demo.py:a=b") == "none/demo.py:a=b"


def test_options_of_a_named_config_reach_it():
    values = parse(["--config=demo:vq=sign,bits=12", "--workdir=runs/x"])
    assert experiment_of(values).sections["vq"].model.model.quantiser.codebook_size == 2**12


@pytest.mark.parametrize("name", ["demo", "toklip_s_256"])
def test_help_lists_fields_with_values_and_meanings(name, capsys):
    text = help_of(name, capsys)
    lines = text[text.index("fields of this config") :].splitlines()[1:]
    assert all(len(line) <= 100 for line in lines if line.startswith(" " * 8))
    fields = [i for i, line in enumerate(lines) if line.startswith("  --config.")]
    unsaid = [
        lines[i]
        for i in fields
        if not lines[min(i + 1, len(lines) - 1)].startswith(" " * 8)
        and not re.search(UNSAID, lines[i])
    ]
    assert unsaid == []
    assert len(fields) > 80


def test_help_shows_the_values_that_the_config_has_and_those_it_leaves_out(capsys):
    text = help_of("toklip_s_256", capsys)
    assert re.search(r"--config.toklip.loop.steps=85691\n +updates in all", text)
    assert "--config.toklip.optimizer.schedule=cosine" in text  # its default
    assert "--config.source.shards='path/to/cc12m/{00000..01099}.tar'" in text
