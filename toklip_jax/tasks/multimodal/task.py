"""Training a multimodal language model as a task: on a tokenizer that stays as it is."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_section, from_fields
from toklip_jax.data.conversations import TEMPLATES
from toklip_jax.data.text import read_tokenizer
from toklip_jax.models.base import ids_shape
from toklip_jax.models.multimodal.config import TOKENS, MultimodalConfig
from toklip_jax.models.registry import family_of, named_size
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import shardings
from toklip_jax.tasks.base import StageConfig, Start, Task, build_objective
from toklip_jax.tasks.multimodal.objective import MultimodalObjective
from toklip_jax.tasks.multimodal.source import CONVERSATIONS
from toklip_jax.tasks.toklip.task import TOKLIP
from toklip_jax.tasks.vq.task import VQ
from toklip_jax.training.state import Params, merge
from toklip_jax.training.workdir import STAGE_PREFIX
from toklip_jax.weights import Weights

MAKERS = {task.name: task for task in (VQ, TOKLIP)}  # whose stages leave a tokenizer
# The language model first: its files are those that weights keep where two have the same name.
MODEL, LANGUAGE_MODEL, TOKENIZER, TOWER = "model", "language_model", "tokenizer", "image_tower"
PARTS = (MODEL, LANGUAGE_MODEL, TOKENIZER, TOWER)
# The roles of the families that each part may be of.
ROLES = {LANGUAGE_MODEL: ("language_model",), TOKENIZER: ("toklip", "vq"), TOWER: ("teacher",)}
PLANNED_LENGTH = 2048  # of a line in plans where its source tells none: LLaVA-1.5's

__all__ = ["CONVERSATIONS", "MULTIMODAL", "MultimodalSettings"]


@dataclasses.dataclass(frozen=True)
class MultimodalSettings:
    """The fields of a stage's section `model`; see `MultimodalConfig`.

    Attributes:
        language_model: the config of a new language model; none where `init` names one.
        reads, grid, lora_rank, lora_alpha, template: see there.
    """

    language_model: Any = None
    reads: tuple[str, ...] = (TOKENS,)
    grid: tuple[int, ...] = ()
    lora_rank: int = 0
    lora_alpha: float = 0.0
    template: str = ""

    def __post_init__(self):
        if self.template:
            check_name("a template", self.template, TEMPLATES)


@dataclasses.dataclass(frozen=True)
class MultimodalFields:
    """The fields of a stage that describe its model.

    Attributes:
        model: its settings.
        init: where weights are, each a path, or "stage:NAME", or "": a whole `model` to continue
            from, or its parts, `language_model` ("" makes a new one), `tokenizer`, `image_tower`
            (those of a SigLIP).
        text_tokenizer: the text tokenizer of a new language model, which goes with its weights.
        sizes: the named size of each part whose weights are in a file, for plans, which read none;
            of all parts where `init` names a whole `model`.
    """

    model: MultimodalSettings
    init: Mapping[str, str]
    text_tokenizer: str = ""
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _read(section: Mapping[str, Any], where: str) -> MultimodalFields:
    plain = dict(check_section(section.get("model", {}), f"{where}.model"))
    if isinstance(plain.get(LANGUAGE_MODEL), Mapping):
        found = config_from_dict(plain[LANGUAGE_MODEL], f"{where}.model.{LANGUAGE_MODEL}")
        plain[LANGUAGE_MODEL] = found
    settings = from_fields(MultimodalSettings, plain, f"{where}.model")
    fields = from_fields(MultimodalFields, {**section, "model": settings}, where)
    for name in fields.init:
        check_name(f"a field of {where}.init", name, PARTS)
    given = {name: fields.init[name] for name in PARTS if fields.init.get(name)}
    if MODEL in given and len(given) > 1:
        raise UserError(
            f"expected {where}.init.model alone, which holds all parts, got {sorted(given)}"
        )
    if MODEL not in given and (LANGUAGE_MODEL in given) == (settings.language_model is not None):
        raise UserError(
            f"expected either the weights of a language model in {where}.init.language_model, or "
            f"the config of a new one in {where}.model.language_model"
        )
    return dataclasses.replace(fields, init=given, sizes=_read_sizes(fields.sizes, given, where))


def _read_sizes(sizes: Mapping[str, str], init: Mapping[str, str], where: str) -> dict[str, str]:
    """The sizes that are given, checked: each of a part that `init` names."""
    given = {part: name for part, name in sizes.items() if name}
    parts = ROLES if MODEL in init else init
    for part, name in given.items():
        check_name(f"a field of {where}.sizes, a part in {where}.init", part, parts)
        try:
            named_size(name, *ROLES[part])
        except UserError as error:
            raise UserError(f"in {where}.sizes.{part}, {error}") from error
    return given


def _start(stage: StageConfig, start: Start) -> tuple[MultimodalObjective, Params]:
    fields: MultimodalFields = stage.model
    weights = {name: start.read_weights(source) for name, source in fields.init.items()}
    if MODEL in weights:
        config, params = _continued(stage, weights[MODEL])
    else:
        config, params = _joined(stage, weights)
    objective = build_objective(
        MultimodalObjective, stage, model_config=config, compute=start.compute
    )
    params = _completed(params, objective, start)
    _check_tokens(stage, config)
    names = flax.traverse_util.flatten_dict(params, sep="/")
    patterns = objective.trainable
    objective.expect_frozen({n for n in names if any(re.fullmatch(p, n) for p in patterns)})
    return objective, params


def _check_tokens(stage: StageConfig, config: MultimodalConfig) -> None:
    """Raises ValueError for a text tokenizer or places of images that are not the model's."""
    is_ours = stage.source is not None and stage.source.kind == CONVERSATIONS.name
    arguments = stage.source.arguments if is_ours else {}
    size = config.language_model.vocab_size
    for path in filter(None, {stage.model.text_tokenizer, arguments.get("text_tokenizer", "")}):
        largest = max(read_tokenizer(path).get_vocab().values())
        if largest >= size:
            raise UserError(
                f"expected a text tokenizer of at most {size} ids, the language model's, got one "
                f"with the id {largest} in {path}: name the language model's own"
            )
    found = arguments.get("tokens_per_image", config.num_tokens)
    if found != config.num_tokens:
        raise UserError(
            f"expected {stage.name}.source.tokens_per_image {config.num_tokens}, the model's grid "
            f"{config.grid}, got {found}"
        )


def _continued(stage: StageConfig, weights: Weights) -> tuple[MultimodalConfig, Params]:
    """The config and parameters of a whole model, with a stage's own LoRA and template."""
    if not isinstance(weights.config, MultimodalConfig):
        raise UserError(
            f"expected a multimodal model in {stage.name}.init.model, got "
            f"{family_of(weights.config).title}"
        )
    settings, config = stage.model.model, weights.config
    if config.lora_rank not in (0, settings.lora_rank):
        raise UserError(
            f"expected {stage.name}.model.lora_rank {config.lora_rank}, that of the weights in "
            f"init.model, got {settings.lora_rank}: merge them first (weights.merge_lora)"
        )
    changes = {"lora_rank": settings.lora_rank, "lora_alpha": settings.lora_alpha}
    changes["template"] = settings.template or config.template
    return dataclasses.replace(config, **changes), weights.params


def _joined(stage: StageConfig, weights: Mapping[str, Weights]) -> tuple[MultimodalConfig, Params]:
    """The config and parameters of a model's parts."""
    configs = {name: found.config for name, found in weights.items()}
    params = {name: found.params for name, found in weights.items()}
    if TOWER in weights:
        if family_of(configs[TOWER]).role != "teacher":
            raise UserError(
                f"expected a SigLIP in {stage.name}.init.image_tower, got "
                f"{family_of(configs[TOWER]).title}"
            )
        params[TOWER], configs[TOWER] = params[TOWER][TOWER], configs[TOWER].vision
    return _config(stage, configs), params


def _config(
    stage: StageConfig, parts: Mapping[str, Any], made: MultimodalSettings | None = None
) -> MultimodalConfig:
    """The config of a model's parts; `made`, the stage's own unless given, tells what is read."""
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


def _completed(params: Params, objective: MultimodalObjective, start: Start) -> Params:
    """Returns parameters with new ones for those that are missing; others are not computed."""
    given = flax.traverse_util.flatten_dict(params, sep="/")

    def init(key):
        flat = flax.traverse_util.flatten_dict(objective.init(key), sep="/")
        missing = {name: x for name, x in flat.items() if name not in given}
        return flax.traverse_util.unflatten_dict(missing, sep="/")

    key = jax.random.key(start.seed)
    placement = shardings(jax.eval_shape(init, key), start.mesh, objective.sharding)
    return merge(jax.jit(init, out_shardings=placement)(key), params)


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    if missing := _unknown_parts(stage):
        raise UserError(
            f"expected the named size of each part whose weights are in a file, to plan without "
            f"reading them, got none of {missing[0]}: set {stage.name}.sizes.{missing[0]}"
        )
    fields: MultimodalFields = stage.model
    parts = {}
    for name in ROLES if MODEL in fields.init else fields.init:
        if name in fields.sizes:
            found = named_size(fields.sizes[name], *ROLES[name])
            parts[name] = found.vision if name == TOWER else found
        elif MODEL not in fields.init:
            parts[name] = _tokenizer_of(stage, stages, compute)
    config = _config(stage, parts, _reads_like(stage, stages))
    return build_objective(MultimodalObjective, stage, model_config=config, compute=compute)


def _tokenizer_of(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    """The config of the tokenizer that another stage trains, which `init` names."""
    source, where = stage.model.init[TOKENIZER], f"{stage.name}.init.{TOKENIZER}"
    other = stages[check_name(where, source.removeprefix(STAGE_PREFIX), stages)]
    task = MAKERS[check_name(where, other.task, MAKERS)]
    return task.outline(other, stages, compute).model_config


def _reads_like(stage: StageConfig, stages: Mapping[str, StageConfig]) -> MultimodalSettings:
    """The settings of the stage that made the model: they tell what is read of an image."""
    seen = set()
    while stage.name not in seen and stage.model.init.get(MODEL, "").startswith(STAGE_PREFIX):
        seen.add(stage.name)
        where, source = f"{stage.name}.init.{MODEL}", stage.model.init[MODEL]
        other = stages[check_name(where, source.removeprefix(STAGE_PREFIX), stages)]
        check_name(where, other.task, (MULTIMODAL.name,))
        stage = other
    return stage.model.model


def _can_outline(stage: StageConfig) -> bool:
    return not _unknown_parts(stage)


def _unknown_parts(stage: StageConfig) -> list[str]:
    """The parts that only weights in a file tell the sizes of."""
    fields: MultimodalFields = stage.model
    if MODEL in fields.init:
        return [] if LANGUAGE_MODEL in fields.sizes else [LANGUAGE_MODEL]
    return [
        name
        for name, source in fields.init.items()
        if name not in fields.sizes and not (name == TOKENIZER and source.startswith(STAGE_PREFIX))
    ]


def _lines(stage: StageConfig) -> dict[str, Any]:
    """What a stage's source tells of its lines: the arguments of `_batch` besides."""
    if stage.source is None or stage.source.kind != CONVERSATIONS.name:
        return {}
    arguments = stage.source.arguments
    found = {name: arguments[name] for name in ("length", "max_images") if name in arguments}
    return {**found, "has_pixels": not arguments.get("cache")}


def _batch(
    objective: MultimodalObjective,
    size: tuple[int, ...] | None,
    batch_size: int,
    length: int = PLANNED_LENGTH,
    max_images: int = 0,
    has_pixels: bool = False,
):
    """The shapes of lines of `length` tokens with `max_images` images, or as many as fit.

    Images are ids where the model reads no pixels, unless the source `has_pixels` alone.
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


MULTIMODAL = Task(
    "multimodal",
    MultimodalObjective,
    MultimodalFields,
    _read,
    _start,
    _outline,
    _batch,
    can_outline=_can_outline,
    batch_arguments=_lines,
    needs_text=False,
    has_validation=False,
    tokenizer_of=lambda stage: stage.model.text_tokenizer,
)
