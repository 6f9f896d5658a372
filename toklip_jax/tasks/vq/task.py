"""Training a VQ tokenizer as a task."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

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
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.state import Params


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
    fields=ModelFields,
    read=functools.partial(read_model, role="vq"),
    start=_start,
    outline=_outline,
    batch=_batch,
    needs_text=False,
)
