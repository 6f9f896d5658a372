"""The inputs and config of a stage, kept with its checkpoints and weights.

A path in a config says little: the file there may be another one tomorrow. So what a stage reads is
known by its hash, and what it left by the part of the config that made it.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.sources import Source
from toklip_jax.parallel.hosts import gather_from_hosts
from toklip_jax.run.context import RunContext
from toklip_jax.tasks.base import StageConfig, initial_weights
from toklip_jax.tasks.registry import task_of
from toklip_jax.training.config_change import differences
from toklip_jax.training.identity import other_inputs
from toklip_jax.training.workdir import weights_path
from toklip_jax.weights import fingerprint, training_of
from toklip_jax.weights.directory import DESCRIPTION

# Fields of a stage that change nothing of what is trained, or not the numbers by intention.
FREE = ("validation", "evaluate", "cache", "init", "size", "teacher_size")
FREE_OF_LOOP = ("log_every", "save_every", "keep", "keep_every", "best", "evaluate_every")
FREE_OF_LOOP += ("accumulation", "max_skipped_in_a_row", "max_bad_share", "checkpoints", "steps")


def inputs_of(stage: StageConfig, context: RunContext) -> dict[str, str]:
    """Returns the hashes of the files that a stage starts from, by the fields that name them.

    All hosts must call it.

    Raises:
        UserError: hosts have different files.
    """
    workdir = context.workdir
    inputs = {
        f"{stage.name}.init.{part}": fingerprint(weights_path(source, workdir))
        for part, source in initial_weights(stage).items()
    }
    if task_of(stage.task).reads_texts(stage) and context.tokenizer_path is not None:
        digest = hashlib.sha256(context.tokenizer_path.read_bytes())
        inputs["text.tokenizer"] = digest.hexdigest()
    _expect_alike("files", inputs)
    return inputs


def data_of(source: Source) -> dict[str, Any]:
    """Returns what tells a stage's data from others; all hosts must call it.

    Raises:
        UserError: hosts have different data, so that they would disagree about their order.
    """
    digest = data_fingerprint(source)
    _expect_alike("data", {"source": digest})
    return {"samples": len(source), "sha256": digest}


def _expect_alike(what, mine):
    for host, theirs in enumerate(gather_from_hosts(mine)):
        if differ := other_inputs(theirs, mine):
            raise UserError(
                f"expected the same {what} on all hosts, got others on host {host} for "
                f"{'; '.join(differ)}: copy them from one place"
            )


def training_record(
    stage: StageConfig, context: RunContext, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Returns what is kept with the weights that a stage leaves."""
    return {
        "run": context.run_id,
        "stage": stage.name,
        "steps": stage.loop.steps,
        "inputs": dict(inputs),
        "config": _trained_as(stage, context),
    }


def steps_trained(stage: StageConfig, context: RunContext) -> int:
    """Returns how many steps the weights in the workdir were trained for; 0 without weights.

    Earlier versions kept no record with weights: then it is the step of the newest checkpoint, or
    all that the config asks for where no checkpoint is left.

    Raises:
        UserError: the config, or what it starts from, is not what made them.
    """
    directory = context.weights_directory(stage.name)
    if not directory.exists():
        return 0
    record, differ = training_of(directory), []
    if record:
        _check_record(record, directory)
        differ = differences(record["config"], _trained_as(stage, context))
        differ += other_inputs(record["inputs"], _inputs_there(stage, context.workdir))
    steps = record["steps"] if record else _newest_checkpoint(directory.parent, stage.loop.steps)
    if steps > stage.loop.steps:
        differ.append(f"loop.steps: {steps} there, {stage.loop.steps} now")
    if differ:
        raise UserError(
            f"expected the config that trained the stage {stage.name}, whose weights are in "
            f"{directory}, got another ({'; '.join(differ)}): take that back, delete "
            f"{directory.parent} to train the stage again, or choose another workdir"
        )
    return steps


def _newest_checkpoint(directory, default) -> int:
    names = [path.name for path in directory.glob("checkpoints/[0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=default)


def _check_record(record, directory):
    kinds = {"steps": int, "config": dict, "inputs": dict}
    if wrong := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise UserError(
            f"{directory / DESCRIPTION} is damaged (no {wrong[0]} of the training): restore it, or "
            f"delete {directory} to write the weights again from the newest checkpoint"
        )


def _trained_as(stage, context) -> dict[str, Any]:
    """The part of the config that decides what a stage's weights become."""
    section = {k: v for k, v in context.experiment.description[stage.name].items() if k not in FREE}
    loop = {k: v for k, v in section.get("loop", {}).items() if k not in FREE_OF_LOOP}
    return {"seed": context.experiment.seed, stage.name: {**section, "loop": loop}}


def _inputs_there(stage, workdir: pathlib.Path) -> dict[str, str]:
    """The hashes of the weights that a stage started from, of those that are still there."""
    paths = {
        f"{stage.name}.init.{part}": weights_path(source, workdir)
        for part, source in initial_weights(stage).items()
    }
    return {name: fingerprint(path) for name, path in paths.items() if path.exists()}
