"""What the stages of a run have to do after one, by FLOPs."""

import pathlib

import pytest

from toklip_jax.cli.command_line import experiment_of
from toklip_jax.cli.train import parse
from toklip_jax.planning.step import build_step
from toklip_jax.run.flops import flops_after

TINY = pathlib.Path(__file__).parents[1] / "training" / "tiny_run.py"


@pytest.fixture(scope="module")
def experiment():
    flags = ["--config.teacher.loop.steps=3", "--config.stages=('vq', 'teacher')"]
    return experiment_of(parse([f"--config={TINY}", "--workdir=runs/x", *flags]))


def test_steps_of_later_stages_are_counted_and_no_others(experiment):
    vq, teacher = experiment.stages
    once = build_step(experiment, teacher).model_flops()
    assert once > 0
    assert flops_after(vq, experiment) == 3 * once
    assert flops_after(teacher, experiment) == 0
