"""Training TokLIP as a task: it starts from a SigLIP 2 teacher and a VQ tokenizer, as released."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.models.registry import named_size
from toklip_jax.models.siglip.config import TeacherConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.hosts import is_main_host
from toklip_jax.tasks.base import (
    CacheUse,
    StageConfig,
    Start,
    Task,
    build_objective,
    model_of_stage,
)
from toklip_jax.tasks.contrast import batch_of_pairs
from toklip_jax.tasks.toklip.cached import cached_rows, check_caches, unused_parameters
from toklip_jax.tasks.toklip.encoder import CacheEncoder
from toklip_jax.tasks.toklip.objective import CACHED, TokLIPObjective
from toklip_jax.tasks.toklip.start import start_config, start_toklip
from toklip_jax.training.state import Params
from toklip_jax.training.workdir import STAGE_PREFIX

PARTS = ("vq", "teacher")  # the models that TokLIP starts from


@dataclasses.dataclass(frozen=True)
class TokLIPFields:
    """The fields of a stage that describe its model.

    Attributes:
        init: where the weights of `PARTS` are: paths, or "stage:NAME".
        is_causal: whether the token encoder has a causal mask.
        has_logit_bias: whether there is a bias, which only the sigmoid loss needs.
        size: the model's named size, for plans, which read no weights.
        teacher_size: the teacher's.
    """

    init: Mapping[str, str]
    is_causal: bool = True
    has_logit_bias: bool = False
    size: str = ""
    teacher_size: str = ""


def _read(section: Mapping[str, Any], where: str) -> TokLIPFields:
    fields = from_fields(TokLIPFields, section, where)
    for name in fields.init:
        check_name(f"a field of {where}.init", name, PARTS)
    if missing := [name for name in PARTS if not fields.init.get(name)]:
        raise UserError(
            f"expected weights to start from in {where}.init.{missing[0]}, got none: name a file, "
            f"a converted directory or stage:NAME"
        )
    return fields


def _start(stage: StageConfig, start: Start) -> tuple[TokLIPObjective, Params]:
    fields: TokLIPFields = stage.model
    teacher, vq = (start.read_weights(fields.init[name]) for name in ("teacher", "vq"))
    joined = start_toklip(teacher, vq, is_causal=fields.is_causal, seed=start.seed)
    if is_main_host():
        print("\n".join(joined.report))
    model = joined.weights.config
    params = joined.weights.params | {"teacher": teacher.params["image_tower"]}
    if not fields.has_logit_bias:
        params.pop("logit_bias", None)
    elif "logit_bias" not in params:
        raise UserError(
            f"expected a teacher with a logit bias for {stage.name}.has_logit_bias=True, got "
            f"{fields.init['teacher']} without: set it to False, or name another teacher"
        )
    return _objective(stage, model, teacher.config, start.compute), params


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    fields: TokLIPFields = stage.model
    if fields.size:
        model = named_size(fields.size, "toklip")
        teacher = named_size(fields.teacher_size, "teacher")
        vision = dataclasses.replace(model.vision, is_causal=fields.is_causal)
        model = dataclasses.replace(model, vision=vision)
        return _objective(stage, model, teacher, compute)
    if not _can_outline(stage):
        raise UserError(
            f"expected {stage.name}.size and {stage.name}.teacher_size, or {stage.name}.init from "
            f"stages of the same config, got {dict(fields.init)}"
        )
    vq, teacher = (model_of_stage(part, stage, stages) for part in PARTS)
    model = start_config(teacher, vq, fields.is_causal)
    return _objective(stage, model, teacher, compute)


def _can_outline(stage: StageConfig) -> bool:
    init = stage.model.init
    return bool(stage.model.size) or all(init[part].startswith(STAGE_PREFIX) for part in PARTS)


def _objective(stage, model: TokLIPConfig, teacher: TeacherConfig, compute: Compute):
    return build_objective(
        TokLIPObjective,
        stage,
        model_config=dataclasses.replace(model, has_logit_bias=stage.model.has_logit_bias),
        teacher_config=teacher.vision,
        compute=compute,
    )


def _batch(objective: TokLIPObjective, size: tuple[int, ...] | None, batch_size: int):
    config = objective.model_config
    return batch_of_pairs(size or config.vision.size, config.text.context_length, batch_size)


TOKLIP = Task(
    name="toklip",
    objective=TokLIPObjective,
    fields=TokLIPFields,
    read=_read,
    start=_start,
    outline=_outline,
    can_outline=_can_outline,
    batch=_batch,
    cache=CacheUse(
        features=CACHED,
        check=check_caches,
        batch=cached_rows,
        unused=unused_parameters,
        encoder=CacheEncoder,
    ),
)
