"""A run: the stages of a config one after another, then their evaluation and its report."""

import contextlib
import dataclasses
import pathlib

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.cache import expect_complete, load_header
from toklip_jax.data.sources import SourceConfig
from toklip_jax.experiment import Experiment
from toklip_jax.parallel.hosts import barrier, call_on_all, call_on_main, is_main_host
from toklip_jax.parallel.sharding import describe_mesh, make_mesh
from toklip_jax.report import write_report
from toklip_jax.run.context import RunContext
from toklip_jax.run.encode import encode
from toklip_jax.run.evaluate import evaluate
from toklip_jax.run.identity import steps_trained
from toklip_jax.run.stages import train_stage
from toklip_jax.run.tokenizer import keep_tokenizer
from toklip_jax.tasks.base import OWN_CACHE, initial_weights
from toklip_jax.training.ownership import checkpoints_place
from toklip_jax.training.sinks import check_wandb
from toklip_jax.training.workdir import STAGE_PREFIX, open_workdir, weights_directory

MODES = ("train", "eval")


def run(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    mode: str = "train",
    restart: bool = False,
    allow_config_change: bool = False,
    profile: tuple[int, int] | None = None,
) -> None:
    """Trains what is not yet trained, then evaluates.

    Args:
        experiment: the config that was read.
        workdir: resumed if it holds a run of this config.
        mode: "train", or "eval" to evaluate only: a run that is finished, or other weights.
        restart: delete an existing run first.
        allow_config_change: continue a run whose config differs, after printing how.
        profile: steps [first, last) of each stage to write a profile of.

    Raises:
        ValueError: from the config or the workdir; says what to change.
    """
    if mode not in MODES:
        raise UserError(f"expected a mode of {MODES}, got {mode!r}")
    if restart and mode == "eval":
        raise UserError(
            "expected --restart with --mode=train only, got it with --mode=eval: it would delete "
            "the run to evaluate, so leave it out"
        )
    if profile is not None and mode == "eval":
        raise UserError("expected --profile with --mode=train only, got it with --mode=eval")
    workdir = expand_user(workdir)  # shells leave the ~ of --workdir=~/run
    mesh = make_mesh(experiment.mesh)
    if is_main_host():
        print(describe_mesh(experiment.mesh, mesh))
    call_on_all(lambda: _check(experiment, workdir, mode, restart))

    with _claimed(workdir, experiment, restart, allow_config_change) as (run_id, accept):
        context = RunContext(
            experiment,
            workdir,
            mesh,
            profile=profile,
            allows_config_change=allow_config_change,
            run_id=run_id,
            accept=accept,
        )
        _run(context, mode)


def _run(context, mode) -> None:
    experiment = context.experiment
    call_on_main(lambda: _check_finished(context, mode))
    context = dataclasses.replace(context, tokenizer_path=keep_tokenizer(context))
    for stage in experiment.stages if mode == "train" else ():
        train_stage(_on_its_cache(stage, context), context)
    if experiment.evaluate:
        evaluate(context)
    context.accept()
    if experiment.report and is_main_host():
        print(f"the report is {write_report(context.workdir)}")


def _on_its_cache(stage, context):
    """A stage that trains on a cache of the run's own, which is made here; others as they are."""
    directory = context.workdir / stage.name / "cache"
    is_done = call_on_main(lambda: steps_trained(stage, context)) >= stage.loop.steps
    if stage.cache != OWN_CACHE or is_done:
        return stage
    shares = {"host": jax.process_index(), "hosts": jax.process_count()}
    remedy = f"delete {directory} for the run to make it again, or choose another --workdir"
    encode(context.experiment, directory, context.workdir, remedy=remedy, **shares)
    barrier(f"cache of {stage.name}")
    source = SourceConfig("cache", {"directory": str(directory)})
    return dataclasses.replace(stage, source=source)


@contextlib.contextmanager
def _claimed(path, experiment, restart, allow_change):
    """Holds the workdir on host 0; gives the run's id, and what keeps the config as the run's."""
    held = []

    def claim() -> str:
        held.append(open_workdir(path, experiment.description, restart, allow_change))
        return held[0].run_id

    try:
        yield call_on_main(claim), lambda: call_on_main(lambda: held[0].accept())
    finally:
        for workdir in held:
            workdir.close()


def _check_finished(context, mode):
    """Checks that what the stages left is what the config asks for, before any of them trains."""
    experiment, longer = context.experiment, {}
    for stage in experiment.stages:
        reached = steps_trained(stage, context)
        for part, source in initial_weights(stage).items():
            former = source.removeprefix(STAGE_PREFIX)
            if (
                former in longer
                and source.startswith(STAGE_PREFIX)
                and context.has_begun(stage.name)
            ):
                raise UserError(
                    f"expected no stage that has started from stage {former}, which is to train "
                    f"on from step {longer[former]}, got {stage.name}, by init.{part}: delete "
                    f"{context.workdir / stage.name} to train it again, or choose another workdir"
                )
        if mode == "eval" and reached < stage.loop.steps:
            raise UserError(
                f"expected the stage {stage.name} trained to step {stage.loop.steps}, found "
                f"weights of step {reached} in {context.workdir}: train it first, with --mode=train"
            )
        if 0 < reached < stage.loop.steps:
            longer[stage.name] = reached


def _check(experiment, workdir, mode, restart):
    """Checks what can be checked before the workdir is claimed, or deleted by a restart."""

    def has_weights(stage) -> bool:
        return not restart and weights_directory(workdir, stage).exists()

    _check_caches(experiment)
    _check_models(experiment, has_weights)
    if mode == "eval":
        _check_evaluation(experiment, workdir, has_weights)
    elif not experiment.stages and not experiment.evaluate:
        raise UserError(
            f"expected stages to train, or names in evaluate, got neither: choose among "
            f"{sorted(experiment.evaluations)}"
        )
    else:
        _check_starts(experiment, workdir, has_weights)
        if is_main_host():
            check_wandb(experiment.wandb)


def _check_caches(experiment):
    """Opens the headers of the caches that stages train on."""
    for stage in experiment.stages:
        for directory in stage.source.cache_directories:
            expect_complete(load_header(directory), directory)


def _check_models(experiment, has_weights):
    """Checks that the models of the final evaluation will exist, before weeks of training."""
    names = [stage.name for stage in experiment.stages]
    for name, source in experiment.models.items() if experiment.evaluate else ():
        stage = source.removeprefix(STAGE_PREFIX)
        is_made = stage in names or has_weights(stage)
        if source.startswith(STAGE_PREFIX) and not is_made:
            raise UserError(
                f"expected models.{name} to be one of the stages {tuple(names)}, got "
                f"{source!r}: name other weights, or leave its evaluations out of evaluate"
            )
        _check_path(f"models.{name}", source)


def _check_starts(experiment, workdir, has_weights):
    """Checks that what each stage starts from, and the place of its checkpoints, will be there."""
    made = set()
    for stage in experiment.stages:
        if stage.loop.checkpoints and is_main_host():
            checkpoints_place(stage.loop.checkpoints)
        is_done = has_weights(stage.name)
        for part, source in {} if is_done else initial_weights(stage).items():
            name = source.removeprefix(STAGE_PREFIX)
            if source.startswith(STAGE_PREFIX) and not (name in made or has_weights(name)):
                raise UserError(
                    f"expected {stage.name}.init.{part} to name a stage before {stage.name} in "
                    f"stages, or one whose weights are in {workdir} and stay there, got {source!r}"
                )
            _check_path(f"{stage.name}.init.{part}", source)
        made.add(stage.name)


def _check_path(where, source):
    if source and not source.startswith(STAGE_PREFIX) and not expand_user(source).exists():
        raise UserError(f"expected weights in {where}, found nothing at {source}")


def _check_evaluation(experiment, workdir, has_weights):
    if not experiment.evaluate:
        raise UserError(
            f"expected names in evaluate to run with --mode=eval, got none: choose among "
            f"{sorted(experiment.evaluations)}"
        )
    for stage in experiment.stages:
        if not has_weights(stage.name):
            raise UserError(
                f"expected a finished run in {workdir}, found no weights of its stage "
                f"{stage.name}: train it first, with --mode=train"
            )
