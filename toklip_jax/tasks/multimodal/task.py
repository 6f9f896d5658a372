"""Training a multimodal language model as a task: on a tokenizer that stays as it is."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_section, from_fields
from toklip_jax.core.home import expand_user
from toklip_jax.data.conversations import TEMPLATES
from toklip_jax.models.multimodal.config import TOKENS, MultimodalConfig
from toklip_jax.models.registry import family_of
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.parallel.sharding import shardings
from toklip_jax.tasks.base import StageConfig, Start, Task, build_objective
from toklip_jax.tasks.multimodal.fitting import check_data
from toklip_jax.tasks.multimodal.objective import MultimodalObjective
from toklip_jax.tasks.multimodal.outline import (
    LANGUAGE_MODEL,
    MODEL,
    TASK,
    TOKENIZER,
    TOWER,
    can_outline,
    line_arguments,
    line_shapes,
    model_config,
    outline,
    read_sizes,
)
from toklip_jax.tasks.multimodal.source import CONVERSATIONS
from toklip_jax.training.state import Params, merge
from toklip_jax.weights import Weights
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.llava import projector_params

# The language model first: its files are those that weights keep where two have the same name.
PARTS = (MODEL, LANGUAGE_MODEL, TOKENIZER, TOWER)

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
        projector: a file with a projector in LLaVA's names, which a model of parts starts with in
            place of a new one.
    """

    model: MultimodalSettings
    init: Mapping[str, str]
    text_tokenizer: str = ""
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    projector: str = ""


def _read(section: Mapping[str, Any], where: str) -> MultimodalFields:
    plain = dict(check_section(section.get("model", {}), f"{where}.model"))
    chosen = [name for name in (LANGUAGE_MODEL, "reads", "grid") if plain.get(name)]
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
    if chosen and MODEL in given:
        raise UserError(
            f"expected no {where}.model.{chosen[0]} beside {where}.init.model, which has its own, "
            f"got {plain[chosen[0]]!r}: leave it out"
        )
    if fields.projector and MODEL in given:
        raise UserError(
            f"expected no {where}.projector beside {where}.init.model, which has its own, got "
            f"{fields.projector!r}"
        )
    return dataclasses.replace(fields, init=given, sizes=read_sizes(fields.sizes, given, where))


def _start(stage: StageConfig, start: Start) -> tuple[MultimodalObjective, Params]:
    fields: MultimodalFields = stage.model
    weights = {name: start.read_weights(source) for name, source in fields.init.items()}
    if MODEL in weights:
        config, params = _continued(stage, weights[MODEL])
    else:
        config, params = _joined(stage, weights)
        params |= _read_projector(stage, config)
    objective = build_objective(
        MultimodalObjective, stage, model_config=config, compute=start.compute
    )
    params = _completed(params, objective, start)
    check_data(stage, objective, params)
    names = flax.traverse_util.flatten_dict(params, sep="/")
    patterns = objective.trainable
    objective.expect_frozen({n for n in names if any(re.fullmatch(p, n) for p in patterns)})
    return objective, params


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
    alpha = settings.lora_alpha or (config.lora_alpha if config.lora_rank else 0.0)
    changes = {"lora_rank": settings.lora_rank, "lora_alpha": alpha}
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
    return model_config(stage, configs), params


def _read_projector(stage: StageConfig, config: MultimodalConfig) -> Params:
    """The projector in the file that a stage names, {} for none."""
    path = stage.model.projector
    if not path:
        return {}
    if len(config.feature_dims) != 1:
        raise UserError(
            f"expected a model with one projector, which {stage.name}.projector gives, got one "
            f"that reads {config.reads}: read 'tokens', 'codes' or 'pixels' alone, or leave it out"
        )
    ((name, width),) = config.feature_dims.items()
    tensors = read_checkpoint(expand_user(path)).tensors
    return {f"projector_{name}": projector_params(tensors, width, config.width)}


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


MULTIMODAL = Task(
    TASK,
    MultimodalObjective,
    MultimodalFields,
    _read,
    _start,
    outline,
    line_shapes,
    can_outline=can_outline,
    batch_arguments=line_arguments,
    needs_text=False,
    has_validation=False,
    tokenizer_of=lambda stage: stage.model.text_tokenizer,
)
