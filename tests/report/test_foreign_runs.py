"""A run from elsewhere: what its files call things is text on the page, and damage is said."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest

from toklip_jax.report import write_report
from toklip_jax.report.charts import confusion_matrix
from toklip_jax.report.command import main
from toklip_jax.report.confusion import confusion_section
from toklip_jax.report.files import Run, read_run
from toklip_jax.report.output import Output
from toklip_jax.report.results import results_section
from toklip_jax.report.usage import usage_section

EVENT = '"><img src=x onerror=alert(2)>'
NAMES = (EVENT, '" onload="alert(1)" x="', "a\\q", "a\\g<9>", "m" * 300, "m\0m", "\ud800", "a/../b")
LABELS = ("$\\frac{1}$ <b>", "'DejaVu Sans'", "#1c1d20", "</text><script>alert(3)</script>")


class Attributes(html.parser.HTMLParser):
    """The attributes that run code, the ids, and the number of scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.handlers, self.ids, self.scripts = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.ids += [value for name, value in attributes if name == "id"]
        self.scripts += tag == "script"


def leave_run(workdir, metrics=None, stages=("vq",), config=None):
    lines = metrics or [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    (workdir / "vq").mkdir(parents=True)
    (workdir / "vq" / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    config = {"stages": list(stages), "models": {}} | (config or {})
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def test_names_of_metrics_and_stages_are_text(tmp_path):
    lines = [
        {"step": step, **{name: i / step for i, name in enumerate(NAMES, start=1)}}
        for step in (1, 2, 3)
    ]
    stages = ("vq", "../vq", "/etc", "", *NAMES)
    workdir = leave_run(tmp_path / "run", lines, stages, {"models": {"toklip": "\0" + EVENT}})
    page = write_report(workdir, output=tmp_path / "page.html").read_text()
    found = Attributes(page)
    assert found.handlers == []
    assert found.scripts == 2
    assert len(found.ids) == len(set(found.ids))
    assert page.count('class="chart"') == len(NAMES)
    assert not re.search(r"[\x00\ud800]", page)


def test_labels_are_text_in_a_matrix():
    matrix = confusion_matrix(np.eye(len(LABELS)), LABELS)
    found = Attributes(matrix)
    assert (found.handlers, found.scripts) == ([], 0)
    assert all(html.unescape(matrix).count(label) == 2 for label in LABELS)


def test_the_policy_allows_the_page_s_own_script_alone(tmp_path):
    page = write_report(leave_run(tmp_path / "run"), output=tmp_path / "page.html").read_text()
    (script,) = re.findall("<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page
    assert "script-src 'unsafe-inline'" not in page


def test_a_page_that_is_named_is_the_only_file(tmp_path):
    workdir = leave_run(tmp_path / "run")
    write_report(workdir, output=tmp_path / "out" / "page.html")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["page.html"]
    write_report(workdir)
    files = {path.name for path in (workdir / "report").iterdir()}
    assert files == {"index.html", "config.py"}


def test_names_of_files_are_plain_and_different(tmp_path):
    output = Output(tmp_path)
    for name in ("a/b", "a-b", "../" * 50, "m\0m"):
        output.picture(np.zeros((2, 2, 3), np.uint8), "alt", name)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 4
    assert {"a-b.png", "a-b-2.png", "m-m.png"} <= set(names)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", '{"stages": 5}'),
        ("config.json", '{"stages": [1]}'),
        ("config.json", '{"models": {"toklip": 3}}'),
        ("config.json", '{"report": {"num_images": "many"}}'),
        ("config.json", '{"report": {"phrases": [1]}}'),
        ("config.json", '{"source": []}'),
        ("config.json", '{"imports": "a"}'),
        ("config.json", "[" * 100_000),
        ("config.json", '{"seed": ' + "9" * 5000 + "}"),
        ("results.json", "\xff"),
        ("results.json", '{"evaluations": []}'),
        ("results.json", '{"evaluations": {"x": 5}}'),
        ("results.json", '{"evaluations": {"x": {"rows": [1]}}}'),
        ("results.json", '{"evaluations": {"x": {"num_images": {"test": "many"}}}}'),
        ("results.json", '{"evaluations": {"x": {"kind": []}}}'),
        ("results.json", '{"weights": {"toklip": {"sha256": 1}}}'),
        ("results.json", '{"date": 5}'),
    ],
)
def test_damage_is_one_line_with_the_file_s_name(file, text, tmp_path, capsys):
    leave_run(tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(text.encode("latin-1"))
    assert main([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"{file} is damaged (" in error
    assert error.count("\n") == 1
    assert len(error) < 600


def test_a_log_is_drawn_as_far_as_it_is_numbers(tmp_path):
    lines = [{"step": i, "loss": i, "huge": 1.0, "text": "a", "flag": True} for i in range(1, 4)]
    lines += [{"step": 4, "loss": 10**400, "huge": 10**400}, {"step": 10**400, "loss": 1.0}]
    run = read_run(leave_run(tmp_path / "run", lines))
    page = write_report(run.workdir, output=tmp_path / "page.html").read_text()
    assert page.count('class="chart"') == 2
    assert "loss of stage vq over its steps, last 3" in page


@pytest.mark.parametrize(
    "details",
    [
        {"confusion": [1]},
        {"confusion": {"counts": [[1, 2]], "labels": ["a", "b"]}},
        {"confusion": {"counts": [[1, 2], [3]], "labels": ["a", "b"]}},
        {"confusion": {"counts": [[10**400]], "labels": ["a"]}},
        {"confusion": {"counts": [[-1]], "labels": ["a"]}},
        {"confusion": {"counts": [[0.5]], "labels": ["a"]}},
        {"code_counts": "many"},
        {"code_counts": [0, 0]},
        {"code_counts": [[1], "a"]},
        {"code_counts": [[1], [[2]]]},
        {"code_counts": {"a": 1}},
    ],
)
def test_damaged_details_are_left_out_and_said(details, tmp_path):
    run = Run(tmp_path, {}, {"evaluations": {"x": {"details": details}}}, {})
    section = confusion_section(run) if "confusion" in details else usage_section(run, None)
    assert "Left out: what x counted is damaged" in section.lead


def test_cells_that_are_no_figures_are_dashes(tmp_path):
    cells = {"a": [1], "b": 10**400, "c": {"value": "x", "error": {}}, "d": {"value": 10**400}}
    evaluations = {"x": {"rows": [{"model": 3, **cells}, {"model": "vq", "e": 0.5}]}}
    run = Run(tmp_path, {}, {"evaluations": evaluations}, {})
    body = str(results_section(run, None).body)
    assert body.count('class="nothing"') == 9
    assert "0.500" in body
