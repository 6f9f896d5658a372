"""Training a VQ tokenizer as a task."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.fields import from_fields
from toklip_jax.models.registry import VQConfig
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import StageConfig, Start, Task, build_objective, fresh_params
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class VQFields:
    """What a stage says of its model.

    Attributes:
        model: the tokenizer's config.
    """

    model: VQConfig


def _read(section: Mapping[str, Any], where: str) -> VQFields:
    fields = from_fields(dataclasses.make_dataclass("Fields", ["model"]), section, where)
    return VQFields(config_from_dict(fields.model))


def _start(stage: StageConfig, start: Start) -> tuple[VQObjective, Params]:
    objective = _outline(stage, {}, start.compute)
    return objective, fresh_params(objective, start)


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    return build_objective(VQObjective, stage, model_config=stage.model.model, compute=compute)


def _batch(objective: VQObjective, size: tuple[int, ...] | None, batch_size: int):
    if size is None:
        raise ValueError(
            "expected the config's image_size, as a VQ tokenizer takes images of any size, got 0"
        )
    objective.model_config.grid_of(*size)
    return {"images": jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)}


VQ = Task(
    name="vq",
    objective=VQObjective,
    fields=VQFields,
    read=_read,
    start=_start,
    outline=_outline,
    batch=_batch,
    needs_text=False,
)
