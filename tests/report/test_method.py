"""The config file of the page is one that `--config` takes, and gives the same experiment."""

import base64
import html
import json
import re

import pytest

from toklip_jax.cli.command_line import experiment_of
from toklip_jax.cli.train import parse
from toklip_jax.report import write_report
from toklip_jax.report.method import config_text


def experiment(config, *overrides):
    argv = [f"--config={config}", "--workdir=unused", *overrides]
    return experiment_of(parse(argv))


@pytest.mark.parametrize("config", ["configs/demo.py", "configs/toklip_l_384.py"])
def test_the_config_file_gives_the_experiment_of_the_run(config, tmp_path):
    overrides = () if "demo" in config else ("--config.source.shards=x.tar",)
    original = experiment(config, *overrides)
    kept = json.loads(json.dumps(original.description))  # as the workdir keeps it
    (tmp_path / "config.py").write_text(config_text(kept))
    again = experiment(tmp_path / "config.py")
    assert again.description == original.description
    assert again == original
    assert experiment(tmp_path / "config.py", "--config.seed=7").seed == 7
    assert experiment(tmp_path / "config.py", "--config.evaluate=()").evaluate == ()


def test_the_page_holds_the_file_and_writes_it_beside_itself(report):
    link = re.search(r'href="data:text/x-python;charset=utf-8;base64,(.*?)" download', report.text)
    held = base64.b64decode(link[1]).decode()
    assert held == (report.path.parent / "config.py").read_text()
    names = {}
    exec(held, names)
    config = json.loads((report.workdir / "config.json").read_text())
    assert json.loads(names["get_config"]().to_json()) == config
    path = report.path.parent / "config.py"
    assert f"--config='{path}' --workdir=runs/again" in html.unescape(report.text)


def test_a_page_alone_says_to_save_the_file(tmp_path):
    (tmp_path / "config.json").write_text('{"stages": ["vq"], "note": "\'\'\' \\" \\\\"}')
    page = write_report(tmp_path, output=tmp_path / "out" / "page.html")
    assert "--config=config.py --workdir=runs/again" in page.read_text()
    names = {}
    exec(config_text(json.loads((tmp_path / "config.json").read_text())), names)
    assert names["get_config"]().note == "''' \" \\"
