"""A stage that trains on a cache which its run makes itself."""

import json
import pathlib
import runpy

import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.data.cache import load_header
from toklip_jax.experiment import read_experiment
from toklip_jax.run.encode import encode
from toklip_jax.run.run import run
from toklip_jax.training.workdir import open_workdir

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny_run.py")))


def config_of(cache, stages=("toklip",)):
    config = TINY["get_config"]()
    with config.unlocked():
        config.stages = stages
        config.evaluate = ()
        config.toklip.cache = cache
        config.toklip.loop.steps = 4
        config.encode = {"crops": 2, "batch_size": 4, "records_per_shard": 8}
    return config


def losses(workdir):
    lines = (workdir / "toklip" / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def started(workdir, cache):
    """The experiment of a run whose first two stages are done."""
    experiment = read_experiment(config_of(cache))
    open_workdir(workdir, experiment.description).close()
    TINY["leave_random_weights"](workdir)
    return experiment


def test_it_trains_as_on_a_cache_that_was_made_before(tmp_path):
    own, other, cache = (tmp_path / name for name in ("own", "other", "cache"))
    experiment = started(own, "run:cache")
    encode(experiment, cache, own)
    run(started(other, str(cache)), other)
    run(experiment, own)
    assert losses(own) == losses(other)
    assert load_header(own / "toklip" / "cache").crops == 2


def test_a_stage_that_encode_does_not_name_is_refused():
    config = config_of("run:cache")
    with config.unlocked():
        config.encode.stage = "teacher"
    with pytest.raises(UserError, match=r"that encode\.stage names"):
        read_experiment(config)


def test_a_folder_with_something_else_is_named_with_what_to_do(tmp_path):
    """No flag of another command is named: here the config is what says where the cache is."""
    experiment = started(tmp_path, "run:cache")
    directory = tmp_path / "toklip" / "cache"
    directory.mkdir(parents=True)
    (directory / "notes.txt").write_text("")
    with pytest.raises(
        UserError, match=r"notes\.txt: delete .*cache for the run.*--workdir"
    ) as found:
        run(experiment, tmp_path)
    assert "--output" not in str(found.value)
