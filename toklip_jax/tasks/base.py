"""The interface of a training task, and what tasks have in common."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, from_fields, read_fields
from toklip_jax.data.sources import SourceConfig
from toklip_jax.models.base import family_of
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import shardings
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.objective import Objective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import Params
from toklip_jax.training.workdir import STAGE_PREFIX
from toklip_jax.weights import Weights

OWN_CACHE = "run:cache"  # as a stage's `cache`: the run encodes its source first


@dataclasses.dataclass(frozen=True)
class ModelFields:
    """The fields of a stage that trains a new model.

    Attributes:
        model: its config.
    """

    model: Any


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of a run: what is trained, on what, and how long.

    Attributes:
        name: the name of its section.
        task: its name in `tasks.registry`.
        model: the task's own fields, as its `fields` has them.
        loss: fields of the task's objective.
        optimizer, loop: see there.
        batch_size: the batch of all devices together.
        source: the data that it trains on; None only in a config without stages to train.
        augment: fields of the transform that fits the source.
        validation: held-out pairs, or None.
        evaluate: names of evaluations that `loop.evaluate_every` runs.
        cache: directory of a cache to train on in place of the run's source, or ""; `OWN_CACHE` is
            one that the run makes itself, of its source, before the stage trains.
    """

    name: str
    task: str
    model: Any
    loss: Mapping[str, Any]
    optimizer: OptimizerConfig
    loop: LoopConfig
    batch_size: int
    source: SourceConfig | None
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    validation: SourceConfig | None = None
    evaluate: tuple[str, ...] = ()
    cache: str = ""

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"expected {self.name}.batch_size of at least 1, got {self.batch_size}")
        if self.batch_size % self.loop.accumulation:
            raise UserError(
                f"expected {self.name}.batch_size to be divisible by {self.name}.loop.accumulation "
                f"{self.loop.accumulation}, got {self.batch_size}"
            )
        if self.loop.evaluate_every and self.validation is None and not self.evaluate:
            raise UserError(
                f"expected a section {self.name}.validation, or names in {self.name}.evaluate, "
                f"with evaluate_every, found neither"
            )


@dataclasses.dataclass(frozen=True)
class Start:
    """The context that a stage starts with.

    Attributes:
        compute: how its models compute.
        mesh: the mesh that its parameters are sharded over.
        seed: the seed of fresh parameters.
        read_weights: returns the weights that a config names, in the layout of `compute`.
        tokenizer_path: the path of the run's text tokenizer, or None.
    """

    compute: Compute
    mesh: jax.sharding.Mesh
    seed: int
    read_weights: Callable[[str], Weights]
    tokenizer_path: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class CacheUse:
    """The part of a task that trains on a cache of its frozen models' outputs.

    Attributes:
        features: the features that a cache may hold besides ids.
        check: `check(stage, objective, params, tokenizer_path)` compares a stage's caches with the
            run and returns the features that they hold, or raises a ValueError.
        batch: `batch(objective, features, batch_size)` returns the shapes of a batch.
        unused: `unused(objective, params, features)` returns the slash paths of the parameters
            that no step on such a cache uses.
        encoder: makes the encoder that `run.encode` writes caches with, such as
            `tasks.toklip.encoder.CacheEncoder`.
    """

    features: tuple[str, ...]
    check: Callable[..., Collection[str]]
    batch: Callable[[Any, Collection[str], int], dict[str, jax.ShapeDtypeStruct]]
    unused: Callable[[Any, Params, Collection[str]], Collection[str]]
    encoder: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A training task: one folder, and one line in `registry.py`.

    Attributes:
        name: its name in configs, as a stage's `objective`.
        objective: its class; the fields of a stage's `loss` are among its fields.
        fields: dataclass of the stage's fields that say which model is trained.
        read: `read(section, where)` returns these fields, or raises a ValueError.
        start: `start(stage, start)` returns the objective and the parameters before training.
        outline: `outline(stage, stages, compute)` returns the objective without reading weights;
            `stages` are the config's by name.
        batch: `batch(objective, size, batch_size)` returns the shapes of a batch of images of
            `size`, or of the model's size where that is None.
        can_outline: whether there is an outline; there is none if only the weights tell the model.
        batch_arguments: returns further arguments of `batch` that a stage's source tells, by name.
        needs_text: whether batches have `token_ids`, or a function of the stage that tells.
        needs_labels: whether they have `labels`, in the same form.
        has_validation: whether held-out pairs of images and texts can be compared.
        cache: how it trains on a cache, or None if it can't.
        tokenizer_of: returns the path of the text tokenizer that a stage names for its weights, ""
            where it names none.
    """

    name: str
    objective: type[ModelObjective]
    fields: type
    read: Callable[[Mapping[str, Any], str], Any]
    start: Callable[[StageConfig, Start], tuple[ModelObjective, Params]]
    outline: Callable[[StageConfig, Mapping[str, StageConfig], Compute], ModelObjective]
    batch: Callable[..., dict[str, jax.ShapeDtypeStruct]]
    can_outline: Callable[[StageConfig], bool] = lambda stage: True
    batch_arguments: Callable[[StageConfig], Mapping[str, Any]] = lambda stage: {}
    needs_text: bool | Callable[[StageConfig], bool] = True
    needs_labels: bool | Callable[[StageConfig], bool] = False
    has_validation: bool = True
    cache: CacheUse | None = None
    tokenizer_of: Callable[[StageConfig], str] = lambda stage: ""

    def reads_texts(self, stage: StageConfig) -> bool:
        """Returns whether a stage's batches have `token_ids`."""
        return self.needs_text(stage) if callable(self.needs_text) else self.needs_text

    def reads_labels(self, stage: StageConfig) -> bool:
        """Returns whether a stage's batches have `labels`."""
        return self.needs_labels(stage) if callable(self.needs_labels) else self.needs_labels


def read_model(section: Mapping[str, Any], where: str, role: str = "") -> ModelFields:
    """Reads a section whose only field is `model`, the config of a registered family.

    Args:
        role: the role that the family must have (`models.base.ROLES`); "" for any.

    Raises:
        ValueError: another field, or a config of no family, or of one of another role.
    """
    fields = from_fields(ModelFields, section, where)
    try:
        config = config_from_dict(fields.model, f"{where}.model")
        found = family_of(config).role
    except TypeError as error:  # of a config's own checks
        raise UserError(f"in {where}.model, {error}") from error
    if role and found != role:
        raise UserError(f"expected a model of kind {role} in {where}.model, got one of {found}")
    return ModelFields(config)


def model_of_stage(part: str, stage: StageConfig, stages: Mapping[str, StageConfig]) -> Any:
    """Returns the config of the model that another stage trains, which `init` names.

    Args:
        part: the field of `init`, which is also the role that the model must have.
        stages: all stages of the config by name.

    Raises:
        ValueError: there is no such stage, or it doesn't train a model of this role.
    """
    source, where = stage.model.init[part], f"{stage.name}.init.{part}"
    fields = stages[check_name(where, source.removeprefix(STAGE_PREFIX), stages)].model
    if not isinstance(fields, ModelFields) or family_of(fields.model).role != part:
        raise UserError(f"expected a stage that trains a {part} model in {where}, got {source!r}")
    return fields.model


def initial_weights(stage: StageConfig) -> Mapping[str, str]:
    """Returns where the weights are that a stage starts from, by part: its field `init`, if any."""
    return {part: path for part, path in getattr(stage.model, "init", {}).items() if path}


def read_loss(task: "Task", section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Reads a stage's section `loss`: those fields of its objective that have defaults.

    Raises:
        ValueError: another field, a value of another type, or no valid pattern in `trainable`.
    """
    fields = dataclasses.fields(task.objective)
    fixed = [field.name for field in fields if field.default is dataclasses.MISSING]
    loss = read_fields(task.objective, section, where, without=fixed)
    if "trainable" in loss:
        _check_patterns(loss["trainable"], f"{where}.trainable")
    return loss


def build_objective(cls: type[ModelObjective], stage: StageConfig, **others: Any) -> ModelObjective:
    """Returns the objective of a stage; `others` are its fields besides the loss's.

    Raises:
        ValueError: a field that the objective doesn't have; names the nearest.
    """
    names = [field.name for field in dataclasses.fields(cls) if field.name not in others]
    for name in stage.loss:
        check_name(f"a field of the {stage.task} stage's loss", name, names)
    return cls(**others, **stage.loss)


def _check_patterns(patterns, where):
    if not patterns:
        raise UserError(f"expected patterns of parameters to train in {where}, got none")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"expected regular expressions in {where}, got {pattern!r} ({error})"
            ) from error


def fresh_task(name: str, objective: type[ModelObjective], role: str = "", **fields: Any) -> Task:
    """Returns a task that trains a new model, which its section's field `model` configures.

    Args:
        role: the role that the model's family must have (`models.base.ROLES`); "" for any.
        fields: other fields of `Task`, `batch` among them.
    """

    def outline(stage, stages, compute):
        return build_objective(objective, stage, model_config=stage.model.model, compute=compute)

    def start(stage, start):
        outlined = outline(stage, {}, start.compute)
        return outlined, fresh_params(outlined, start)

    read = functools.partial(read_model, role=role)
    return Task(name, objective, ModelFields, read, start=start, outline=outline, **fields)


def fresh_params(
    objective: Objective, start: Start, parts: Collection[str] | None = None
) -> Params:
    """Returns new parameters, which are initialised sharded.

    Args:
        parts: the names of those at the top to return; the others are not computed.
    """

    def init(key):
        params = objective.init(key)
        return params if parts is None else {name: params[name] for name in parts}

    key = jax.random.key(start.seed)
    shapes = jax.eval_shape(init, key)
    placement = shardings(shapes, start.mesh, objective.sharding)
    return jax.jit(init, out_shardings=placement)(key)
