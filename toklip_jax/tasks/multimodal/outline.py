"""The multimodal task's model and batches as a config tells them, without reading weights."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.models.base import ids_shape
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.registry import named_size
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import StageConfig, build_objective
from toklip_jax.tasks.multimodal.objective import MultimodalObjective
from toklip_jax.tasks.multimodal.source import CONVERSATIONS, gives_ids
from toklip_jax.tasks.tokenizer_stage import TOKENIZER, tokenizer_of_stage
from toklip_jax.training.workdir import STAGE_PREFIX

TASK = "multimodal"
MODEL, LANGUAGE_MODEL, TOWER = "model", "language_model", "image_tower"
# The roles of the families that each part may be of.
ROLES = {LANGUAGE_MODEL: ("language_model",), TOKENIZER: ("toklip", "vq"), TOWER: ("teacher",)}
PLANNED_LENGTH = 2048  # of a line in plans where its source tells none: LLaVA-1.5's


def outline(
    stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute
) -> MultimodalObjective:
    """Returns the objective of a stage by the named sizes of its parts.

    A tokenizer that another stage trains has its sizes from there; a new language model has its
    own config.

    Args:
        stages: all stages of the config by name.

    Raises:
        ValueError: a part whose weights are in a file and that has no size, or parts that don't
            fit each other.
    """
    if missing := _unknown_parts(stage):
        raise UserError(
            f"expected the named size of each part whose weights are in a file, to plan without "
            f"reading them, got none of {missing[0]}: set {stage.name}.sizes.{missing[0]}"
        )
    fields = stage.model
    parts = {}
    for name in ROLES if MODEL in fields.init else fields.init:
        if name in fields.sizes:
            found = named_size(fields.sizes[name], *ROLES[name])
            parts[name] = found.vision if name == TOWER else found
        elif MODEL not in fields.init:
            parts[name] = tokenizer_of_stage(stage, stages, compute)
    config = model_config(stage, parts, _reads_like(stage, stages))
    return build_objective(MultimodalObjective, stage, model_config=config, compute=compute)


def _reads_like(stage: StageConfig, stages: Mapping[str, StageConfig]) -> Any:
    """The settings of the stage that made the model: they tell what is read of an image."""
    seen = set()
    while stage.name not in seen and stage.model.init.get(MODEL, "").startswith(STAGE_PREFIX):
        seen.add(stage.name)
        where, source = f"{stage.name}.init.{MODEL}", stage.model.init[MODEL]
        other = stages[check_name(where, source.removeprefix(STAGE_PREFIX), stages)]
        check_name(where, other.task, (TASK,))
        stage = other
    return stage.model.model


def can_outline(stage: StageConfig) -> bool:
    """Returns whether the sizes of all parts are known without reading weights."""
    return not _unknown_parts(stage)


def _unknown_parts(stage: StageConfig) -> list[str]:
    """The parts that only weights in a file tell the sizes of."""
    fields = stage.model
    if MODEL in fields.init:
        return [] if LANGUAGE_MODEL in fields.sizes else [LANGUAGE_MODEL]
    return [
        name
        for name, source in fields.init.items()
        if name not in fields.sizes and not (name == TOKENIZER and source.startswith(STAGE_PREFIX))
    ]


def line_arguments(stage: StageConfig) -> dict[str, Any]:
    """Returns what a stage's source tells of its lines: further arguments of `line_shapes`."""
    if stage.source is None or stage.source.kind != CONVERSATIONS.name:
        return {}
    arguments = stage.source.arguments
    found = {name: arguments[name] for name in ("length", "max_images") if name in arguments}
    return {**found, "has_pixels": not gives_ids(stage.source)}


def line_shapes(
    objective: MultimodalObjective,
    size: tuple[int, ...] | None,
    batch_size: int,
    length: int = PLANNED_LENGTH,
    max_images: int = 0,
    has_pixels: bool = False,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of lines.

    Args:
        size: (height, width) of images; the model's unless given.
        batch_size: lines of the batch.
        length: tokens of a line; no more than the language model has positions.
        max_images: images of a line; 0 for as many as fit.
        has_pixels: whether the source gives images, whose ids the step computes. Without, it gives
            ids, and images only to a model that reads their pixels.

    Raises:
        ValueError: images of another size than the model's.
    """
    config = objective.model_config
    size = size or objective.image_size
    if tuple(size) != tuple(objective.image_size):
        raise UserError(
            f"expected images of {objective.image_size}, which have the model's grid "
            f"{config.grid}, got {size}: resize them, or name the size of the stage's own weights "
            f"in its field sizes"
        )
    length = min(length, config.language_model.max_positions)
    count = max_images or max(length // math.prod(config.grid), 1)
    names = ("ids", "labels", "segment_ids", "positions", "image_places")
    line = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
    batch = dict.fromkeys(names, line)
    if config.image_tower is not None or has_pixels:
        shape = (batch_size, count, *size, 3)
        batch["images"] = jax.ShapeDtypeStruct(shape, jnp.uint8)
    if config.needs_ids and not has_pixels:
        shape = (batch_size, count, *ids_shape(config.vq, config.grid))
        batch["image_ids"] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return batch


def read_sizes(sizes: Mapping[str, str], init: Mapping[str, str], where: str) -> dict[str, str]:
    """Returns the named sizes that are given, by part.

    Args:
        sizes: name by part, "" for none.
        init: where weights are, by part.
        where: the stage's section, for messages.

    Raises:
        ValueError: a size of a part that `init` doesn't name, or one that no family has.
    """
    given = {part: name for part, name in sizes.items() if name}
    parts = ROLES if MODEL in init else init
    for part, name in given.items():
        check_name(f"a field of {where}.sizes, a part in {where}.init", part, parts)
        try:
            named_size(name, *ROLES[part])
        except UserError as error:
            raise UserError(f"in {where}.sizes.{part}, {error}") from error
    return given


def model_config(
    stage: StageConfig, parts: Mapping[str, Any], made: Any = None
) -> MultimodalConfig:
    """Returns the config of a model of these parts.

    Args:
        parts: configs by part.
        made: the settings that tell what is read of an image: the stage's own unless given.

    Raises:
        ValueError: parts that don't fit each other (`MultimodalConfig`).
    """
    settings = stage.model.model
    made = made or settings
    return MultimodalConfig(
        parts.get(LANGUAGE_MODEL, settings.language_model),
        parts.get(TOKENIZER),
        parts.get(TOWER),
        reads=made.reads,
        grid=made.grid,
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        template=settings.template,
    )
