"""The stages of a run: each trains one model and leaves its weights for those that follow."""

import functools
import logging
import pathlib
from collections.abc import Callable, Sequence

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.build import Batching, evaluation_batches, training_batches
from toklip_jax.data.text import TOKENIZER_FILE
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.results import flat_figures
from toklip_jax.evaluation.suite import Suite
from toklip_jax.parallel.hosts import barrier, call_on_main, is_main_host
from toklip_jax.run.context import RunContext
from toklip_jax.run.flops import flops_after
from toklip_jax.run.identity import data_of, inputs_of, steps_trained, training_record
from toklip_jax.tasks.base import StageConfig, initial_weights
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.tasks.registry import task_of
from toklip_jax.tasks.validation import validation
from toklip_jax.training.identity import Identity
from toklip_jax.training.loop import Evaluate, LoopContext, train
from toklip_jax.training.workdir import weights_path
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.base import files_beside

logger = logging.getLogger(__name__)


def train_stage(stage: StageConfig, context: RunContext) -> pathlib.Path:
    """Trains a stage, or continues it, and returns its weights' directory.

    Raises:
        ValueError: weights, data or a cache that don't fit the stage; says what to change.
    """
    weights = context.weights_directory(stage.name)
    reached = call_on_main(lambda: steps_trained(stage, context))
    if reached >= stage.loop.steps:
        return weights
    _warn_of_warmup(stage)
    task, experiment = task_of(stage.task), context.experiment
    objective, params = task.start(stage, context.start)
    has_text = task.reads_texts(stage)
    text = context.text_tokenizer(objective.text_config) if has_text else None
    unused = ()
    if stage.source.gives == "ids":
        features = task.cache.check(stage, objective, params, context.tokenizer_path)
        unused = task.cache.unused(objective, params, features)
    batching = _batching(stage, context, objective)
    inputs = inputs_of(stage, context)
    batches = training_batches(
        stage.source,
        batching,
        tokenizer=text,
        has_text=has_text,
        has_labels=task.reads_labels(stage),
        seed=experiment.seed,
        augment=stage.augment,
    )
    loop_context = LoopContext(
        title=stage.name,
        place=_place(stage, experiment),
        later_flops=lambda: flops_after(stage, experiment),
        evaluate=_evaluation(stage, context, objective, batching),
        description=experiment.description,
        allow_change=context.allows_config_change,
        profile=context.profile,
        wandb=experiment.wandb,
        unused=unused,
        identity=Identity(context.run_id, inputs, data_of(batches.source)),
        reached=reached,
        accept=functools.partial(_accept, stage, context, reached),
    )
    params = train(
        objective,
        params,
        batches,
        optimizer=stage.optimizer,
        config=stage.loop,
        mesh=context.mesh,
        directory=context.workdir / stage.name,
        seed=experiment.seed,
        context=loop_context,
    )
    record = training_record(stage, context, inputs)
    _save(stage, context, objective, objective.model_params(params), record)
    return weights


def _place(stage, experiment) -> str:
    names = [other.name for other in experiment.stages]
    return f"stage {names.index(stage.name) + 1} of {len(names)}" if len(names) > 1 else ""


def _warn_of_warmup(stage):
    warmup, steps = stage.optimizer.warmup_steps, stage.loop.steps
    if warmup >= steps and is_main_host():
        logger.warning(
            "the learning rate of %s rises for %s steps and training ends after %s, so that it "
            "never reaches learning_rate: lower %s.optimizer.warmup_steps",
            stage.name, warmup, steps, stage.name,
        )  # fmt: skip


def _accept(stage, context, reached):
    """Keeps the config, and moves weights of fewer steps out of the way of those to come."""
    context.accept()
    if not reached:
        return
    weights = context.weights_directory(stage.name)
    aside = weights.with_name(f"{weights.name}_of_step_{reached}")

    def move():
        if aside.exists():
            raise UserError(
                f"expected to move {weights} to {aside}, which exists: move one of them away"
            )
        weights.rename(aside)
        print(f"{stage.name} trains on to step {stage.loop.steps}; its weights are now {aside}")

    call_on_main(move)


def _batching(stage, context, objective) -> Batching:
    """Returns how this host reads batches, for training and validation alike."""
    reading = context.experiment.reading
    return Batching(
        stage.batch_size,
        image_size=reading.image_size or objective.image_size or 0,
        num_workers=reading.num_workers,
        exif_orientation=reading.exif_orientation,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def _evaluation(
    stage: StageConfig, context: RunContext, objective: ModelObjective, batching: Batching
) -> Evaluate | None:
    """Returns what `evaluate_every` calls: the stage's `validation` and its named evaluations."""
    if not stage.loop.evaluate_every:
        return None
    parts: list[Callable] = []
    if stage.validation is not None:
        text = context.text_tokenizer(objective.text_config)
        batches = functools.partial(
            evaluation_batches,
            stage.validation,
            batching,
            tokenizer=text,
            resize=context.experiment.evaluation.resize,
        )
        parts.append(validation(objective, batches, context.mesh))
    if stage.evaluate:
        suite = build_suite(context, stage.evaluate, objective.evaluated_models)
        parts.append(lambda params: flat_figures(suite.run(objective.evaluated_params(params))))

    def evaluate(params):
        figures = {}
        for part in parts:
            figures |= part(params)
        return figures

    return evaluate


def build_suite(context: RunContext, names: Sequence[str], models: Models) -> Suite:
    """Returns the evaluations `names` of a run's config, on models."""
    experiment = context.experiment
    return Suite(
        {name: experiment.evaluations[name] for name in names},
        models,
        context.mesh,
        image_size=experiment.reading.image_size,
        tokenizer=context.text_tokenizer(models.text_config),
        batch_size=experiment.evaluation.batch_size,
        num_workers=experiment.reading.num_workers,
        resize=experiment.evaluation.resize,
        exif_orientation=experiment.reading.exif_orientation,
    )


def _tokenizer_path(stage, context, objective) -> pathlib.Path | None:
    """The text tokenizer that goes with a stage's weights.

    The one that it names; that of the run's texts if the model reads them; or else that of the
    model it starts from, whose text tower stays as it is.
    """
    if own := task_of(stage.task).tokenizer_of(stage):
        path = expand_user(own)
        return path / TOKENIZER_FILE if path.is_dir() else path
    has_text = task_of(stage.task).reads_texts(stage)
    if has_text and objective.keeps_text_tokenizer:
        return context.tokenizer_path
    for source in initial_weights(stage).values():
        path = weights_path(source, context.workdir) / TOKENIZER_FILE
        if path.is_file():
            return path
    return None if has_text else context.tokenizer_path


def _beside(stage, context, config) -> tuple[pathlib.Path, ...]:
    """The other files that belong to weights of `config`, beside those that a stage starts from."""
    found: dict[str, pathlib.Path] = {}
    for source in initial_weights(stage).values():
        path = weights_path(source, context.workdir)
        directory = path if path.is_dir() else path.parent
        found = {file.name: file for file in files_beside(directory, config)} | found
    found.pop(TOKENIZER_FILE, None)  # `_tokenizer_path` says which
    return tuple(found.values())


def _save(stage, context, objective, params, record):
    weights = Weights(
        objective.model_config,
        params,
        is_scanned=objective.compute.is_scanned,
        tokenizer_path=_tokenizer_path(stage, context, objective),
        source=f"stage {stage.name} of {context.workdir}",
        training=record,
        beside=_beside(stage, context, objective.model_config),
    )
    save_weights(context.weights_directory(stage.name), weights)
    barrier(f"weights of {stage.name}")
