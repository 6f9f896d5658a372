"""Runs that are asked for more steps, for something else, or to restart, from the command line."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from toklip_jax.cli.train import main
from toklip_jax.training.logging import read_metrics
from toklip_jax.weights import load_weights

CONFIG = pathlib.Path(__file__).parents[1] / "training" / "tiny_run.py"
FLAGS = ("--config.stages=('vq',)", "--config.vq.loop.save_every=1")
pytestmark = pytest.mark.slow  # `test_identity.py` compares the same without training


def run(workdir, steps, *flags):
    given = [f"--config={CONFIG}", f"--workdir={workdir}", f"--config.vq.loop.steps={steps}"]
    if not any(flag.startswith("--config.evaluate=") for flag in flags):
        given.append("--config.evaluate=()")
    return main([*given, *FLAGS, *flags])


def steps_of(workdir):
    return [record["step"] for record in read_metrics(workdir / "vq" / "metrics.jsonl")]


def steps_kept(workdir):
    return json.loads((workdir / "config.json").read_text())["vq"]["loop"]["steps"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "two"
    assert run(workdir, 2) == 0
    return workdir


def test_a_finished_stage_trains_the_steps_that_are_added(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    assert run(workdir, 3) == 2  # without being allowed to
    assert steps_kept(workdir) == 2
    assert run(workdir, 3, "--allow_config_change") == 0
    assert (steps_of(workdir), steps_kept(workdir)) == ([1, 2, 3], 3)
    assert "its weights are now" in capsys.readouterr().out
    old, new = (load_weights(workdir / "vq" / n) for n in ("weights_of_step_2", "weights"))
    assert (old.training["steps"], new.training["steps"]) == (2, 3)
    assert not np.array_equal(old.params["codebook"], new.params["codebook"])


@pytest.mark.parametrize(
    ("steps", "flags", "message"),
    [
        (1, (), "loop.steps: 2 there, 1 now"),
        (2, ("--config.vq.batch_size=4",), "vq.batch_size: 8 there, 4 now"),
        (3, ("--mode=eval", "--config.evaluate=('pictures',)"), "train it first"),
    ],
)
def test_what_a_finished_run_is_not_is_refused_and_not_kept(
    steps, flags, message, finished, capsys
):
    flags += ("--config.models={'vq': 'stage:vq'}",)
    assert run(finished, steps, "--allow_config_change", *flags) == 2
    assert message in capsys.readouterr().err
    assert steps_kept(finished) == 2


def test_checkpoints_elsewhere_are_the_runs_own(tmp_path, capsys):
    elsewhere = f"--config.vq.loop.checkpoints={tmp_path / 'disk'}"
    assert run(tmp_path / "a", 2, elsewhere) == 0
    assert run(tmp_path / "b", 2, elsewhere) == 2
    assert "found those of the run of" in capsys.readouterr().err
    assert not (tmp_path / "b" / "config.json").exists()
    assert run(tmp_path / "a", 2, elsewhere, "--restart") == 0
    assert steps_of(tmp_path / "a") == [1, 2]
    shutil.copy(tmp_path / "disk" / "vq" / "run.json", tmp_path / "b" / "run.json")
    assert run(tmp_path / "b", 3, elsewhere) == 2  # another config than its checkpoints'
    assert run(tmp_path / "b", 3, elsewhere, "--allow_config_change") == 0
    assert steps_of(tmp_path / "b") == [3]
