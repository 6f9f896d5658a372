"""The command line, from outside: what it leaves, how it resumes, what it says of bad input."""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import toklip_jax
from toklip_jax.cli.train import main
from toklip_jax.core.revision import source_commit
from toklip_jax.training.logging import read_metrics
from toklip_jax.weights import read_weights

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
CONFIG = pathlib.Path(__file__).parent / "training" / "tiny_run.py"
EVALUATE = "--config.toklip.loop.evaluate_every=5"


def run(workdir, *flags, config=CONFIG):
    return main([f"--config={config}", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(workdir, EVALUATE) == 0
    return workdir


def losses(workdir, stage):
    return [record["loss"] for record in read_metrics(workdir / stage / "metrics.jsonl")]


def test_a_run_leaves_weights_metrics_and_events_of_every_stage(finished):
    for stage in ("vq", "teacher", "toklip"):
        assert [r["step"] for r in read_metrics(finished / stage / "metrics.jsonl")] == list(
            range(1, 11)
        )
        assert list((finished / stage / "tensorboard").glob("events*"))
        assert (finished / stage / "weights" / "toklip.json").exists()


def test_the_weights_of_a_run_load_as_a_tokenizer(finished):
    toklip = toklip_jax.load(finished / "toklip" / "weights")
    images = np.zeros((2, 16, 16, 3), np.uint8)
    ids = toklip.tokenize(images)
    assert ids.shape == (2, 4)
    assert toklip.semantic_tokens(ids).shape == (2, 4, 32)


def test_frozen_parts_leave_toklips_training_as_they_came(finished):
    toklip, teacher, vq = (
        read_weights(finished / stage / "weights").params for stage in ("toklip", "teacher", "vq")
    )
    for name, got, want in (
        ("vq", toklip["vq"], vq),
        ("text", toklip["text_tower"], teacher["text_tower"]),
    ):
        leaves = zip(*(leaves_of(tree) for tree in (got, want)), strict=True)
        assert all((a == b).all() for a, b in leaves), name
    moved = toklip["token_encoder"]["norm"]["scale"] != teacher["image_tower"]["norm"]["scale"]
    assert moved.any()


def leaves_of(tree):
    import jax

    return jax.tree.leaves(tree)


def test_a_finished_run_is_left_alone_and_restart_trains_it_again(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    before = (workdir / "vq" / "metrics.jsonl").stat().st_mtime_ns
    assert run(workdir, EVALUATE) == 0
    assert (workdir / "vq" / "metrics.jsonl").stat().st_mtime_ns == before
    assert run(workdir, "--config.stages=('vq',)", "--config.evaluate=()", "--restart") == 0
    assert (workdir / "vq" / "metrics.jsonl").stat().st_mtime_ns > before
    assert losses(workdir, "vq") == losses(finished, "vq")
    assert not (workdir / "toklip").exists()


def test_a_run_cut_off_goes_on_as_if_nothing_had_happened(finished, tmp_path):
    """As after a kill: later stages gone, this one's end gone, a half-written save left over."""
    workdir = tmp_path / "cut"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "toklip")
    shutil.rmtree(workdir / "teacher" / "weights")
    checkpoints = workdir / "teacher" / "checkpoints"
    shutil.rmtree(checkpoints / "10")
    (checkpoints / "10.orbax-checkpoint-tmp").mkdir()
    assert run(workdir, EVALUATE) == 0
    for stage in ("teacher", "toklip"):
        assert losses(workdir, stage) == losses(finished, stage)


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(finished, tmp_path):
    flags = ["--config.mesh.fsdp=2", "--config.mesh.tensor=2", EVALUATE]
    command = [sys.executable, "-m", "toklip_jax.main", f"--config={CONFIG}", *flags]
    devices = {"XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **devices},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in ("vq", "teacher", "toklip"):
        got, want = losses(tmp_path / "run", stage), losses(finished, stage)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=0)
    got, want = figures_of(tmp_path / "run"), figures_of(finished)
    assert got.keys() == want.keys()
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-5, atol=1e-6)


def figures_of(workdir):
    """As training names them: evaluation/model/figure."""
    evaluations = json.loads((workdir / "results.json").read_text())["evaluations"]
    return {
        f"{name}/{row['model']}/{figure}": cell["value"] if isinstance(cell, dict) else cell
        for name, result in evaluations.items()
        for row in result["rows"]
        for figure, cell in row.items()
        if figure != "model"
    }


def test_eval_mode_gives_the_figures_of_training_to_the_last_digit(finished, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "results.json").unlink()
    assert run(workdir, EVALUATE, "--mode=eval") == 0
    assert "image→text R@1" in capsys.readouterr().out
    found = figures_of(workdir)
    last = read_metrics(workdir / "toklip" / "metrics.jsonl")[-1]
    shared = found.keys() & last
    assert len(shared) == 2 * 6 + 4  # of two models, both directions at three k; of the VQ
    assert {name: found[name] for name in shared} == {name: last[name] for name in shared}
    assert figures_of(finished) == found  # and those at the end of the training run


def test_results_say_what_was_evaluated_on_what(finished):
    results = json.loads((finished / "results.json").read_text())
    assert set(results["evaluations"]) == {"pairs", "pictures", "meaning"}
    weights = finished / "toklip" / "weights"
    assert results["weights"]["toklip"] == {
        "source": "stage:toklip",
        "sha256": toklip_jax.weights.fingerprint(weights),
    }
    assert results["evaluations"]["meaning"]["num_images"] == {"train": 20, "test": 11}
    assert results["config"]["evaluations"]["pairs"]["source"]["num_samples"] == 11
    assert results["versions"]["toklip_jax"] == importlib.metadata.version("toklip_jax")
    assert results["commit"].partition("-")[0] == source_commit().partition("-")[0]
    assert "| VQ" in (finished / "results.md").read_text()
    assert not (finished / "evaluation").exists()  # what was kept to go on with


def test_a_run_may_be_evaluated_in_other_ways_than_it_was_trained_with(finished, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    flags = (EVALUATE, "--mode=eval", "--config.evaluations.pairs.source.num_samples=5")
    assert run(workdir, *flags, "--config.evaluate=('pairs',)") == 0
    results = json.loads((workdir / "results.json").read_text())
    assert [r["num_images"] for r in results["evaluations"].values()] == [{"test": 5}]
    assert run(workdir, EVALUATE, "--mode=eval", "--config.evaluate=('paris',)") == 2
    assert "did you mean 'pairs'" in capsys.readouterr().err
    assert run(workdir, EVALUATE, "--mode=eval", "--config.evaluate=()") == 2
    assert "expected names in evaluate" in capsys.readouterr().err
    assert run(workdir, EVALUATE, "--mode=eval", "--config.models.toklip=stage:vq") == 2
    assert "expected weights of kind toklip" in capsys.readouterr().err


def test_eval_mode_needs_a_finished_run(tmp_path, capsys):
    assert run(tmp_path / "none", "--mode=eval") == 2
    assert "expected a finished run" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.teacher.loop.stepz=3"], "did you mean 'steps'"),
        (["--config.teacher.loop.steps=many"], "many"),
        (["--config.seed=0", "stray"], "expected flags only, got 'stray'"),
        (["--mode=evaluate"], "train"),
        (["--config.source.kind=synthetics"], "did you mean 'synthetic'"),
        (["--config.mesh.data=3"], "expected mesh sizes that multiply to"),
        (["--config.vq.loop.steps=0"], "of at least 1"),
        (["--config.vq.objective=vqq"], "got 'vqq': did you mean 'vq'"),
        (["--config.compute.dtype=float31"], "expected a dtype of"),
        (["--config.stages=('vq',)"], "to be one of the stages ('vq',)"),
        (["--config.stages=()", "--config.evaluate=()"], "expected stages to train, or names"),
        (["--profile=7"], "expected --profile=FIRST:LAST"),
    ],
)
def test_bad_flags_give_one_clear_error(flags, message, tmp_path, capsys):
    assert run(tmp_path / "run", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_a_missing_config_is_named(tmp_path, capsys):
    assert run(tmp_path / "run", config=tmp_path / "none.py") == 2
    assert "none.py" in capsys.readouterr().err
    assert main([f"--workdir={tmp_path}"]) == 2
    assert "expected --config" in capsys.readouterr().err
    assert main([f"--config={CONFIG}"]) == 2
    assert "expected --workdir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        (
            "import runpy\n"
            "def get_config():\n"
            f"    config = runpy.run_path({str(CONFIG)!r})['get_config']()\n"
            "    del config.vq.loop\n"
            "    return config\n",
            "loop",
        ),
        (
            "import runpy\n"
            "def get_config():\n"
            f"    config = runpy.run_path({str(CONFIG)!r})['get_config']()\n"
            "    config.vq.optimizer.learning_rat = 1.0\n"
            "    return config\n",
            "got 'learning_rat': did you mean 'learning_rate'",
        ),
    ],
)
def test_a_broken_config_is_one_clear_error(text, message, tmp_path, capsys):
    (tmp_path / "config.py").write_text(text)
    assert run(tmp_path / "run", config=tmp_path / "config.py") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_run_is_refused_and_untouched(finished, tmp_path, capsys):
    before = sorted(path.name for path in finished.rglob("*"))
    assert run(finished, EVALUATE, "--config.seed=1") == 2
    assert "holds a run of another config (seed: 0 there, 1 now)" in capsys.readouterr().err
    assert sorted(path.name for path in finished.rglob("*")) == before
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run(tmp_path, "--restart") == 2
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_the_command_itself_exits_with_2_and_no_traceback(tmp_path):
    (tmp_path / "config.py").write_text("x = 1\n")
    command = [sys.executable, "-m", "toklip_jax.main", f"--config={tmp_path / 'config.py'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: in --config: AttributeError")
    assert "get_config" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_config_is_kept_with_the_run(finished):
    kept = json.loads((finished / "config.json").read_text())
    assert kept["toklip"]["loop"]["steps"] == 10
