"""Pictures and texts are read as the config says at every door: training, evaluations, caches."""

import dataclasses
import functools
import pathlib
import runpy

import jax
import pytest
from ml_collections import ConfigDict

from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.experiment import read_experiment
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.run import encode, stages
from toklip_jax.run.context import RunContext
from toklip_jax.tasks.teacher.objective import TeacherObjective

tiny_run = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "training" / "tiny_run.py"))


def context_of(workdir, **fields):
    config = ConfigDict(tiny_run["get_config"]().to_dict() | fields)
    return RunContext(read_experiment(config), workdir, make_mesh({}, jax.devices()[:1]))


def test_training_validation_and_evaluations_resize_and_turn_pictures_alike(tmp_path, monkeypatch):
    context = context_of(tmp_path, exif_orientation=True, evaluation_resize="squash")
    stage = context.experiment.sections["teacher"]
    stage = dataclasses.replace(stage, loop=dataclasses.replace(stage.loop, evaluate_every=1))
    objective = TeacherObjective(tiny_run["TEACHER"], context.experiment.compute)
    validated = []
    monkeypatch.setattr(stages, "validation", lambda *args: validated.append(args[1]))
    batching = stages._batching(stage, context, objective)
    stages._evaluation(stage, context, objective, batching)
    assert batching.exif_orientation
    assert validated[0].args == (stage.validation, batching)
    assert validated[0].keywords["resize"] == "squash"
    evaluated = stages.build_suite(context, stage.evaluate, objective.evaluated_models)._reading
    assert (evaluated.resize, evaluated.exif_orientation) == ("squash", True)


@pytest.mark.parametrize("door", ["a run", "a cache"])
def test_a_tokenizer_that_does_not_fit_the_text_tower_is_refused(door, tmp_path):
    path = tmp_path / "tokenizer.json"
    TextTokenizer(train_tokenizer(["one red circle, two blue squares"], 64), 6).save(path)
    tower = dataclasses.replace(tiny_run["TEACHER"].text, vocab_size=8)
    text = {"tokenizer": str(path), "context_length": 6}
    context = context_of(tmp_path / "run", text=text)
    read = {
        "a run": dataclasses.replace(context, tokenizer_path=path).text_tokenizer,
        "a cache": functools.partial(encode._tokenizer, context.experiment, context.workdir),
    }[door]
    with pytest.raises(ValueError, match=r"at most 8 ids, the model's vocab_size, got one of \d\d"):
        read(tower)


def test_without_a_length_in_the_config_that_of_the_weights_is_taken(tmp_path):
    path = tmp_path / "tokenizer.json"
    TextTokenizer(train_tokenizer(["one two"], 16), 6).save(path)
    context = context_of(tmp_path / "run", text={"tokenizer": str(path)})
    context = dataclasses.replace(context, tokenizer_path=path)
    tower = dataclasses.replace(tiny_run["TEACHER"].text, context_length=9)
    assert context.text_tokenizer(tower).context_length == 9


def test_a_cache_is_made_with_the_tokenizer_that_the_runs_stages_were_trained_with(tmp_path):
    tower = tiny_run["TEACHER"].text
    for name, words in (("run", "one two"), ("other", "three four")):
        (tmp_path / name).mkdir()
        TextTokenizer(train_tokenizer([words], 16), 6).save(tmp_path / name)
    text = {"tokenizer": str(tmp_path / "other" / "tokenizer.json"), "context_length": 6}
    context = context_of(tmp_path / "run", text=text)
    with pytest.raises(ValueError, match="which is another: name that one"):
        encode._tokenizer(context.experiment, context.workdir, tower)
