"""What a run keeps is compared with the config and files that it continues with; nothing trains."""

import json
import pathlib
import runpy
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from toklip_jax.data.sources import ArraySource
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.experiment import read_experiment
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.run.context import RunContext
from toklip_jax.run.identity import inputs_of, steps_trained, training_record
from toklip_jax.run.run import _check_finished, _check_path, run
from toklip_jax.run.stages import _warn_of_warmup
from toklip_jax.run.tokenizer import expect_kept, keep_tokenizer
from toklip_jax.weights import training_of
from toklip_jax.weights.description import Description

CONFIG = pathlib.Path(__file__).parents[1] / "training" / "tiny_run.py"
get_config = runpy.run_path(str(CONFIG))["get_config"]


def context_of(workdir, **changes):
    """A run's context; `changes` are fields of the config by their dotted paths."""
    config = get_config()
    with config.unlocked():
        for path, value in changes.items():
            config.update_from_flattened_dict({path: value})
    mesh = make_mesh({}, jax.devices()[:1])
    return RunContext(read_experiment(ConfigDict(config)), workdir, mesh, run_id="this run")


def stage_of(context, name):
    return context.experiment.sections[name]


def finish(workdir, name, context, parameters=b"parameters"):
    """Leaves what a stage leaves at its end, but for parameters that mean something."""
    weights = workdir / name / "weights"
    weights.mkdir(parents=True)
    (weights / "params.safetensors").write_bytes(parameters)
    stage = stage_of(context, name)
    record = training_record(stage, context, inputs_of(stage, context))
    Description(1, False, "", {}, record).write(weights)


@pytest.fixture
def workdir(tmp_path):
    """A run whose three stages are finished."""
    for name in ("vq", "teacher", "toklip"):
        finish(tmp_path, name, context_of(tmp_path))
    return tmp_path


def test_a_finished_stage_has_its_steps_and_an_unfinished_one_none(workdir):
    context = context_of(workdir)
    assert steps_trained(stage_of(context, "toklip"), context) == 10
    shutil.rmtree(workdir / "toklip")
    assert steps_trained(stage_of(context, "toklip"), context) == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vq.loop.steps", 9),
        ("vq.optimizer.learning_rate", 1e-4),
        ("vq.loss.entropy_weight", 0.5),
        ("vq.batch_size", 4),
        ("vq.model.codebook_size", 64),
        ("vq.augment", {"max_shift": 1.0}),
        ("seed", 1),
    ],
)
def test_a_finished_stage_is_not_passed_off_as_trained_with_another_config(path, value, workdir):
    context = context_of(workdir, **{path: value})
    with pytest.raises(
        ValueError, match=rf"{path.split('.')[-1]}.*there, .* now.*: take that back"
    ):
        steps_trained(stage_of(context, "vq"), context)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vq.loop.steps", 20),
        ("vq.loop.save_every", 5),
        ("vq.loop.accumulation", 2),
        ("source.num_samples", 30),  # said when the workdir is opened
        ("mesh.fsdp", 2),
    ],
)
def test_what_may_change_under_a_finished_stage(path, value, workdir):
    context = context_of(workdir, **{path: value})
    assert steps_trained(stage_of(context, "vq"), context) == 10


def test_weights_that_changed_under_a_stage_that_started_from_them_are_named(workdir):
    (workdir / "vq" / "weights" / "params.safetensors").write_bytes(b"others")
    context = context_of(workdir)
    with pytest.raises(ValueError, match=r"toklip.init.vq: SHA-256 .* there, .* now"):
        steps_trained(stage_of(context, "toklip"), context)


def test_a_file_that_a_finished_stage_started_from_may_be_gone_but_not_another(tmp_path):
    (tmp_path / "vq.safetensors").write_bytes(b"parameters")
    run, fields = tmp_path / "run", {"toklip.init.vq": str(tmp_path / "vq.safetensors")}
    context = context_of(run, **fields)
    finish(run, "teacher", context)
    finish(run, "toklip", context)
    moved = tmp_path / "moved.safetensors"
    (tmp_path / "vq.safetensors").rename(moved)
    assert steps_trained(stage_of(context, "toklip"), context) == 10
    context = context_of(run, **{"toklip.init.vq": str(moved)})  # the same weights elsewhere
    assert steps_trained(stage_of(context, "toklip"), context) == 10
    moved.write_bytes(b"others")
    with pytest.raises(ValueError, match=r"toklip.init.vq: SHA-256"):
        steps_trained(stage_of(context, "toklip"), context)


@pytest.mark.parametrize("name", ["steps", "config", "inputs"])
def test_a_damaged_record_is_named(name, workdir):
    weights, context = workdir / "vq" / "weights", context_of(workdir)
    record = training_of(weights) | {name: "damaged"}
    Description(1, False, "", {}, record).write(weights)
    with pytest.raises(ValueError, match=rf"toklip.json is damaged \(no {name} of the training\)"):
        steps_trained(stage_of(context, "vq"), context)


@pytest.mark.parametrize(("saved", "steps"), [((4, 10), 10), ((), 20)])
def test_weights_of_an_earlier_version_have_the_steps_of_their_newest_checkpoint(
    saved, steps, tmp_path
):
    (tmp_path / "vq" / "weights").mkdir(parents=True)
    Description(1, False, "", {}).write(tmp_path / "vq" / "weights")
    for step in saved:
        (tmp_path / "vq" / "checkpoints" / str(step)).mkdir(parents=True)
    context = context_of(tmp_path, **{"vq.loop.steps": 20})
    assert steps_trained(stage_of(context, "vq"), context) == steps
    context = context_of(tmp_path, **{"vq.loop.steps": 5})
    if saved:
        with pytest.raises(ValueError, match=r"loop.steps: 10 there, 5 now"):
            steps_trained(stage_of(context, "vq"), context)


def test_more_steps_of_a_stage_that_another_has_started_from_are_refused(workdir):
    context = context_of(workdir, **{"vq.loop.steps": 20})
    with pytest.raises(ValueError, match=r"is to train on from step 10, got toklip, by init.vq"):
        _check_finished(context, "train")
    shutil.rmtree(workdir / "toklip")
    _check_finished(context, "train")


def test_evaluating_needs_the_steps_that_the_config_names(workdir):
    _check_finished(context_of(workdir), "eval")
    with pytest.raises(ValueError, match=r"teacher trained to step 20, found weights of .*10"):
        _check_finished(context_of(workdir, **{"teacher.loop.steps": 20}), "eval")


def test_hosts_with_different_files_are_told(workdir, monkeypatch):
    from toklip_jax.run import identity

    context = context_of(workdir)
    theirs = inputs_of(stage_of(context, "toklip"), context) | {"toklip.init.vq": "0" * 64}
    monkeypatch.setattr(identity, "gather_from_hosts", lambda mine: [mine, theirs])
    with pytest.raises(ValueError, match=r"others on host 1 for toklip.init.vq"):
        inputs_of(stage_of(context, "toklip"), context)


def test_hosts_with_different_data_are_told(monkeypatch):
    from toklip_jax.run import identity

    source = ArraySource(x=np.zeros(3))
    assert identity.data_of(source)["samples"] == 3
    monkeypatch.setattr(identity, "gather_from_hosts", lambda mine: [mine, {"source": "0" * 64}])
    with pytest.raises(ValueError, match="the same data on all hosts, got others on host 1"):
        identity.data_of(source)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Two tokenizers of other words."""
    paths = []
    for name, text in {"first": "a red dog", "second": "two blue cats"}.items():
        paths.append(tmp_path_factory.mktemp("tokenizers") / f"{name}.json")
        TextTokenizer(train_tokenizer([text], 30), 6).save(paths[-1])
    return paths


def kept(context):
    return TextTokenizer.load(keep_tokenizer(context), 6).fingerprint


def with_config(context):
    """As after a run of this config: it is the workdir's."""
    text = json.dumps(dict(context.experiment.description))
    (context.workdir / "config.json").write_text(text)
    return context


def test_another_tokenizer_replaces_the_kept_one_only_before_texts_were_trained(
    tokenizers, tmp_path
):
    first, second = (context_of(tmp_path, **{"text.tokenizer": str(p)}) for p in tokenizers)
    before = kept(with_config(first))
    assert kept(first) == before
    assert kept(second) != before
    assert kept(first) == before
    log = tmp_path / "teacher" / "metrics.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 1}\n')
    assert kept(first) == before
    with pytest.raises(ValueError, match=r"expected text.tokenizer to name .*, got .*second.json"):
        keep_tokenizer(second)
    assert kept(first) == before


def test_other_content_under_the_same_name_is_another_tokenizer(tokenizers, tmp_path):
    path = shutil.copy(tokenizers[0], tmp_path / "named.json")
    run = tmp_path / "run"
    run.mkdir()
    context = with_config(context_of(run, **{"text.tokenizer": str(path)}))
    keep_tokenizer(context)
    expect_kept(context.experiment, run / "tokenizer.json")
    shutil.copy(tokenizers[1], path)
    with pytest.raises(ValueError, match="which is another"):
        expect_kept(context.experiment, run / "tokenizer.json")
    path.unlink()  # then the run's own is all there is
    expect_kept(context.experiment, run / "tokenizer.json")


def test_a_restart_that_deletes_what_it_starts_from_is_refused_before_it_deletes(workdir):
    context = context_of(workdir, stages=("toklip",), evaluate=())
    before = sorted(path for path in workdir.rglob("*") if path.is_file())
    with pytest.raises(ValueError, match=r"toklip.init.* stay there, got 'stage:"):
        run(context.experiment, workdir, restart=True)
    assert sorted(path for path in workdir.rglob("*") if path.is_file()) == before


def test_weights_in_a_home_directory_are_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "vq.pt").touch()
    _check_path("toklip.init.vq", "~/vq.pt")
    with pytest.raises(ValueError, match="found nothing at ~"):
        _check_path("toklip.init.vq", "~/none.pt")


def test_a_warm_up_that_outlasts_the_training_is_said(tmp_path, caplog):
    _warn_of_warmup(stage_of(context_of(tmp_path), "vq"))
    assert caplog.text == ""
    _warn_of_warmup(stage_of(context_of(tmp_path, **{"vq.optimizer.warmup_steps": 10}), "vq"))
    assert "never reaches learning_rate: lower vq.optimizer.warmup_steps" in caplog.text
