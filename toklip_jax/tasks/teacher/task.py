"""Training a SigLIP teacher as a task."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.fields import from_fields
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.models.siglip.config import TeacherConfig
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import StageConfig, Start, Task, build_objective, fresh_params
from toklip_jax.tasks.contrast import batch_of_pairs
from toklip_jax.tasks.teacher.objective import TeacherObjective
from toklip_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class TeacherFields:
    """What a stage says of its model.

    Attributes:
        model: the teacher's config.
    """

    model: TeacherConfig


def _read(section: Mapping[str, Any], where: str) -> TeacherFields:
    fields = from_fields(dataclasses.make_dataclass("Fields", ["model"]), section, where)
    return TeacherFields(config_from_dict(fields.model))


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
    fields=TeacherFields,
    read=_read,
    start=_start,
    outline=_outline,
    batch=_batch,
)
