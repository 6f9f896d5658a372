"""Training an image generator as a task: on the ids of a tokenizer that stays as it is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.data.sources import IDS
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.registry import family_of
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import (
    CacheUse,
    StageConfig,
    Start,
    Task,
    build_objective,
    fresh_params,
)
from toklip_jax.tasks.generator.cached import (
    cached_rows,
    check_caches,
    unused_parameters,
)
from toklip_jax.tasks.generator.objective import TEXT_ENCODER, GeneratorObjective
from toklip_jax.tasks.tokenizer_stage import TOKENIZER, tokenizer_of_stage
from toklip_jax.tasks.toklip.encode_config import CAPTIONS
from toklip_jax.tasks.toklip.encoder import CacheEncoder
from toklip_jax.training.state import Params
from toklip_jax.training.workdir import STAGE_PREFIX


@dataclasses.dataclass(frozen=True)
class GeneratorFields:
    """The fields of a stage that describe its model.

    Attributes:
        model: the config of the GPT.
        init: where the weights of the `tokenizer` are, and perhaps of a `gpt` to continue from and
            of a `text_encoder` whose features of captions are the condition: a path, or
            "stage:NAME".
    """

    model: GPTConfig
    init: Mapping[str, str]


def _read(section: Mapping[str, Any], where: str) -> GeneratorFields:
    config = config_from_dict(section.get("model", {}), f"{where}.model")
    if not isinstance(config, GPTConfig):
        raise UserError(f"expected a model of kind gpt in {where}.model, got {config}")
    fields = from_fields(GeneratorFields, {**section, "model": config}, where)
    for name in fields.init:
        check_name(f"a field of {where}.init", name, (TOKENIZER, "gpt", TEXT_ENCODER))
    if not fields.init.get(TOKENIZER):
        raise UserError(
            f"expected the weights of a tokenizer in {where}.init.tokenizer, got none: name a "
            f"file, a converted directory or stage:NAME"
        )
    return fields


def _start(stage: StageConfig, start: Start) -> tuple[GeneratorObjective, Params]:
    fields: GeneratorFields = stage.model
    tokenizer = start.read_weights(fields.init[TOKENIZER])
    if family_of(tokenizer.config).role == "generator":
        raise UserError(
            f"expected a tokenizer in {stage.name}.init.tokenizer, got a generator: name it in "
            f"init.gpt, and its tokenizer there"
        )
    encoder = _read_text_encoder(stage, start)
    config = None if encoder is None else encoder.config
    objective = _objective(stage, tokenizer.config, start.compute, config)
    _check_captions(stage, objective, tokenizer, start)
    params = fresh_params(objective, start, ("gpt",)) | {"tokenizer": tokenizer.params}
    params |= {} if encoder is None else {TEXT_ENCODER: encoder.params}
    if source := fields.init.get("gpt"):
        params |= {"gpt": _read_gpt(source, stage, objective, start)}
    return objective, params


def _read_text_encoder(stage, start):
    """The weights of the text encoder that a stage names, or None."""
    source, gpt = stage.model.init.get(TEXT_ENCODER), stage.model.model
    if not source:
        return None
    where = f"{stage.name}.init.{TEXT_ENCODER}"
    if not gpt.caption_dim:
        raise UserError(
            f"expected no {where} with a generator of classes, got {source!r}: leave it out, or "
            f"set model.caption_dim"
        )
    weights = start.read_weights(source)
    family = family_of(weights.config)
    if family.role != TEXT_ENCODER:
        raise UserError(f"expected the weights of a text encoder in {where}, got {family.title}")
    if weights.config.width != gpt.caption_dim:
        raise UserError(
            f"expected a text encoder with features of {gpt.caption_dim}, the generator's "
            f"caption_dim, in {where}, got one of {weights.config.width}"
        )
    return weights


def _check_captions(stage, objective, tokenizer, start):
    """Raises ValueError where nothing gives captions' features, or another text tokenizer."""
    gpt = stage.model.model
    if not gpt.caption_dim or objective.text_encoder is not None:
        return
    if not objective.reads_texts:
        if stage.source is not None and stage.source.gives == IDS:
            return  # the cache holds them
        raise UserError(
            f"expected a text encoder in {stage.name}.init.{TEXT_ENCODER}, or captions of TokLIP's "
            f"own text tower, with its width as {stage.name}.model.caption_dim and its context "
            f"length as caption_length, got {gpt.caption_dim} and {gpt.caption_length}: name one, "
            f"or train on a cache that has {CAPTIONS}"
        )
    paths = tokenizer.tokenizer_path, start.tokenizer_path
    if None in paths:
        return
    theirs, ours = (TextTokenizer.load(path, gpt.caption_length).fingerprint for path in paths)
    if theirs != ours:
        raise UserError(
            f"expected the text tokenizer of TokLIP's weights, {paths[0]}, got another: name it in "
            f"text.tokenizer"
        )


def _read_gpt(source, stage, objective, start):
    weights = start.read_weights(source)
    theirs = getattr(weights.config, "gpt", None)
    if theirs != objective.model_config.gpt:
        raise UserError(
            f"expected a generator of {stage.name}.model in {stage.name}.init.gpt, got "
            f"{theirs or family_of(weights.config).title} in {source}"
        )
    return weights.params["gpt"]


def _objective(
    stage: StageConfig, tokenizer: Any, compute: Compute, text_encoder: Any = None
) -> GeneratorObjective:
    return build_objective(
        GeneratorObjective,
        stage,
        model_config=GeneratorConfig(stage.model.model, tokenizer),
        compute=compute,
        text_encoder=text_encoder,
    )


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    if not _can_outline(stage):
        raise UserError(
            f"expected {stage.name}.init.tokenizer from a stage of the same config, and no "
            f"{TEXT_ENCODER}, whose weights alone tell its sizes, got "
            f"{dict(stage.model.init)}"
        )
    return _objective(stage, tokenizer_of_stage(stage, stages, compute), compute)


def _can_outline(stage: StageConfig) -> bool:
    init = stage.model.init
    return init[TOKENIZER].startswith(STAGE_PREFIX) and not init.get(TEXT_ENCODER)


def _batch(objective: GeneratorObjective, size: tuple[int, ...] | None, batch_size: int):
    gpt = objective.model_config.gpt
    size = size or objective.image_size
    if size != objective.image_size:
        raise UserError(
            f"expected images of {objective.image_size}, which have the generator's grid "
            f"{gpt.grid}, got {size}"
        )
    shapes = {"images": jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)}
    return shapes | _conditions(objective, batch_size)


def _conditions(objective, batch_size):
    gpt = objective.model_config.gpt
    if not gpt.caption_dim:
        return {"labels": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
    if objective.text_config is not None:
        shape = (batch_size, gpt.caption_length)
        return {"token_ids": jax.ShapeDtypeStruct(shape, jnp.int32)}
    shape = (batch_size, gpt.caption_length)
    return {
        "captions": jax.ShapeDtypeStruct((*shape, gpt.caption_dim), jnp.float32),
        "valid": jax.ShapeDtypeStruct(shape, jnp.bool_),
    }


GENERATOR = Task(
    "generator",
    GeneratorObjective,
    GeneratorFields,
    _read,
    _start,
    _outline,
    _batch,
    can_outline=_can_outline,
    needs_text=lambda stage: stage.model.model.caption_dim > 0,
    needs_labels=lambda stage: stage.model.model.num_classes > 0,
    has_validation=False,
    cache=CacheUse((CAPTIONS,), check_caches, cached_rows, unused_parameters, CacheEncoder),
)
