"""Training a VQ tokenizer as a task: alone, or with a teacher that compares its images too."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.models.registry import family_of, named_size
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import (
    ModelFields,
    StageConfig,
    Start,
    Task,
    build_objective,
    fresh_params,
    fresh_task,
    model_of_stage,
    read_model,
)
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.tasks.vq.perceptual import TEACHER, PerceptualVQObjective
from toklip_jax.training.state import Params, partition
from toklip_jax.training.workdir import STAGE_PREFIX


def _batch(objective: VQObjective, size: tuple[int, ...] | None, batch_size: int):
    if size is None:
        raise UserError(
            "expected the config's image_size, as a VQ tokenizer takes images of any size, got 0"
        )
    objective.model_config.grid_of(*size)
    return {"images": jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)}


VQ = fresh_task(
    "vq",
    VQObjective,
    role="vq",
    batch=_batch,
    needs_text=False,
    has_validation=False,
)


@dataclasses.dataclass(frozen=True)
class PerceptualFields(ModelFields):
    """The fields of a stage that describe its models: `model` is the new tokenizer's config.

    Attributes:
        init: where the weights of the `teacher` are whose image tower compares images: a path, or
            "stage:NAME".
        teacher_size: the named size of a teacher whose weights are in a file, for plans, which
            read none.
    """

    init: Mapping[str, str]
    teacher_size: str = ""


def _read(section: Mapping[str, Any], where: str) -> PerceptualFields:
    fields = from_fields(PerceptualFields, section, where)
    for name in fields.init:
        check_name(f"a field of {where}.init", name, (TEACHER,))
    if not fields.init.get(TEACHER):
        raise UserError(
            f"expected the weights of a teacher in {where}.init.teacher, got none: name a file, a "
            f"converted directory or stage:NAME"
        )
    model = read_model({"model": fields.model}, where, "vq").model
    return dataclasses.replace(fields, model=model)


def _start(stage: StageConfig, start: Start) -> tuple[PerceptualVQObjective, Params]:
    found = start.read_weights(stage.model.init[TEACHER])
    if family_of(found.config).role != "teacher":
        raise UserError(
            f"expected a teacher in {stage.name}.init.teacher, got {family_of(found.config).title}"
        )
    objective = _objective(stage, found.config, start.compute)
    names = set(jax.eval_shape(objective.init, jax.random.key(start.seed))) - {TEACHER}
    params = fresh_params(objective, start, names) | {TEACHER: found.params["image_tower"]}
    trainable, _ = partition(params, objective.trainable)
    if TEACHER in trainable:
        raise UserError(
            f"expected a perceptual loss's teacher to stay as it is, got {stage.name}.loss."
            f"trainable {objective.trainable}, which trains parts of it: begin patterns with "
            f"(?!{TEACHER}/)"
        )
    return objective, params


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    if not _can_outline(stage):
        raise UserError(
            f"expected {stage.name}.teacher_size, or {stage.name}.init.teacher from a stage of the "
            f"same config, got {dict(stage.model.init)}"
        )
    if stage.model.teacher_size:
        return _objective(stage, named_size(stage.model.teacher_size, "teacher"), compute)
    return _objective(stage, model_of_stage(TEACHER, stage, stages), compute)


def _can_outline(stage: StageConfig) -> bool:
    return bool(stage.model.teacher_size) or stage.model.init[TEACHER].startswith(STAGE_PREFIX)


def _objective(stage: StageConfig, teacher: Any, compute: Compute) -> PerceptualVQObjective:
    return build_objective(
        PerceptualVQObjective,
        stage,
        model_config=stage.model.model,
        teacher_config=teacher.vision,
        compute=compute,
    )


PERCEPTUAL_VQ = Task(
    "perceptual_vq",
    PerceptualVQObjective,
    PerceptualFields,
    _read,
    _start,
    _outline,
    _batch,
    can_outline=_can_outline,
    needs_text=False,
    has_validation=False,
)
