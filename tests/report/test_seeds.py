"""Runs of one config with other seeds: means, spread, and what is refused."""

import html
import json
import math

import pytest

from toklip_jax.report import write_report
from toklip_jax.report.command import main
from toklip_jax.report.files import read_run
from toklip_jax.report.results import leader
from toklip_jax.report.seeds import spread


def leave_run(workdir, seed, value, **fields):
    workdir.mkdir()
    config = {"stages": ["vq"], "batch_size": 8, "seed": seed} | fields
    (workdir / "config.json").write_text(json.dumps(config))
    rows = [
        {"model": "TokLIP", "top1": {"value": value, "error": 0.01}, "count": 3},
        {"model": "chance", "top1": {"value": 0.1, "error": None}},
    ]
    evaluations = {"classes": {"kind": "zeroshot", "rows": rows}}
    (workdir / "results.json").write_text(json.dumps({"evaluations": evaluations}))
    return workdir


@pytest.fixture
def runs(tmp_path):
    """Three runs of one config."""
    return [leave_run(tmp_path / f"run{i}", i, value) for i, value in enumerate((0.5, 0.6, 0.7))]


def test_figures_over_seeds_have_the_standard_error_over_runs(runs):
    toklip, chance = spread("classes", [read_run(run) for run in runs])
    assert toklip["top1"]["value"] == pytest.approx(0.6)
    assert toklip["top1"]["error"] == pytest.approx(0.1 / math.sqrt(3))
    assert toklip["count"] == {"value": 3, "error": None}
    assert chance["top1"] == {"value": pytest.approx(0.1), "error": None}


def test_the_page_shows_the_spread_beside_the_table(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    seeds = f"--seeds={runs[1]},{runs[2]}"
    assert main([str(runs[0]), seeds, f"--output={page}"]) == 0
    text = html.unescape(page.read_text())
    assert "The mean of 3 runs with the seeds 0, 1, 2" in text
    assert "0.500<small> ± 0.010</small>" in text
    assert "0.600<small> ± 0.058</small>" in text
    assert "The mean of" not in write_report(runs[0], output=page).read_text()


def test_only_evaluated_runs_of_the_same_config_and_other_seeds_are_taken(runs, tmp_path, capsys):
    def error(other):
        assert main([str(runs[0]), f"--seeds={other}"]) == 2
        return capsys.readouterr().err

    assert "run0, both of seed 0: leave one out" in error(runs[0])
    other = leave_run(tmp_path / "other", 5, 0.5, batch_size=9)
    assert "whose config differs (batch_size: 8 there, 9 now)" in error(other)
    (runs[1] / "results.json").unlink()
    assert "evaluate it first, with --mode=eval" in error(runs[1])
    assert "expected a run with a config.json" in error(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([(0.50, 0.01), (0.53, 0.01)], 1),  # 0.03 is more than 2 * 0.0141
        ([(0.50, 0.01), (0.528, 0.01)], None),
        ([(0.50, 0.01), (0.60, None)], None),
        ([(0.50, 0.01)], None),
        ([(0.50, 0.001), (0.40, 0.001), (0.499, 0.001)], None),
        ([(0.50, 0.001), (0.40, 0.001), (0.49, 0.001)], 0),
    ],
)
def test_a_lead_counts_from_two_standard_errors_on(cells, expected):
    rows = [{"top1": {"value": value, "error": error}} for value, error in cells]
    found = leader("top1", rows)
    assert found is (None if expected is None else rows[expected])


def test_less_is_a_lead_where_lower_is_better_and_some_figures_have_none():
    rows = [{name: {"value": value, "error": 0.1} for name in ("rfid", "perplexity")}
            for value in (5.0, 9.0)]  # fmt: skip
    assert leader("rfid", rows) is rows[0]
    assert leader("perplexity", rows) is None
