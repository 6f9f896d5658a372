"""Training a SigLIP teacher as a task."""

import functools
from collections.abc import Mapping

from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import (
    ModelFields,
    StageConfig,
    Start,
    Task,
    build_objective,
    fresh_params,
    read_model,
)
from toklip_jax.tasks.contrast import batch_of_pairs
from toklip_jax.tasks.teacher.objective import TeacherObjective
from toklip_jax.training.state import Params


def _start(stage: StageConfig, start: Start) -> tuple[TeacherObjective, Params]:
    objective = _outline(stage, {}, start.compute)
    return objective, fresh_params(objective, start)


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    model = stage.model.model
    return build_objective(TeacherObjective, stage, model_config=model, compute=compute)


def _batch(objective: TeacherObjective, size: tuple[int, ...] | None, batch_size: int):
    config = objective.model_config
    return batch_of_pairs(size or config.vision.size, config.text.context_length, batch_size)


TEACHER = Task(
    name="teacher",
    objective=TeacherObjective,
    fields=ModelFields,
    read=functools.partial(read_model, role="teacher"),
    start=_start,
    outline=_outline,
    batch=_batch,
)
