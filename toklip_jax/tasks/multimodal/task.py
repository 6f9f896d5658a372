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
from toklip_jax.models.registry import family_of
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
PLANNED_LENGTH = 2048  # of a line in plans: LLaVA-1.5's

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
    """

    model: MultimodalSettings
    init: Mapping[str, str]
    text_tokenizer: str = ""


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
    return dataclasses.replace(fields, init=given)


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


def _config(stage: StageConfig, parts: Mapping[str, Any]) -> MultimodalConfig:
    settings = stage.model.model
    return MultimodalConfig(
        parts.get(LANGUAGE_MODEL, settings.language_model),
        parts.get(TOKENIZER),
        parts.get(TOWER),
        reads=settings.reads,
        grid=settings.grid,
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
    if not _can_outline(stage):
        raise UserError(
            f"expected a new language model in {stage.name}.model, and its tokenizer from a stage "
            f"of the same config, got {dict(stage.model.init)}"
        )
    parts = {}
    for name, source in stage.model.init.items():
        where = f"{stage.name}.init.{name}"
        other = stages[check_name(where, source.removeprefix(STAGE_PREFIX), stages)]
        task = MAKERS[check_name(where, other.task, MAKERS)]
        parts[name] = task.outline(other, stages, compute).model_config
    config = _config(stage, parts)
    return build_objective(MultimodalObjective, stage, model_config=config, compute=compute)


def _can_outline(stage: StageConfig) -> bool:
    """Whether all that isn't new comes from a stage whose model its own config tells."""
    init = stage.model.init
    return set(init) <= {TOKENIZER} and all(x.startswith(STAGE_PREFIX) for x in init.values())


def _batch(objective: MultimodalObjective, size: tuple[int, ...] | None, batch_size: int):
    """The shapes of lines of LLaVA-1.5's length, with as many images as fit."""
    config = objective.model_config
    size = size or objective.image_size
    if tuple(size) != tuple(objective.image_size):
        raise UserError(
            f"expected images of {objective.image_size}, which have the model's grid "
            f"{config.grid}, got {size}"
        )
    length = min(PLANNED_LENGTH, config.language_model.max_positions)
    count = max(length // math.prod(config.grid), 1)
    names = ("ids", "labels", "segment_ids", "positions", "image_places")
    line = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
    batch = dict.fromkeys(names, line)
    if config.image_tower is not None:
        shape = (batch_size, count, *size, 3)
        batch["images"] = jax.ShapeDtypeStruct(shape, jnp.uint8)
    if config.needs_ids:
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
    needs_text=False,
    has_validation=False,
    tokenizer_of=lambda stage: stage.model.text_tokenizer,
)
