"""Post-training a generator as a task: it starts from one with TokLIP, and perhaps a teacher."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.registry import build_model, family_of
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.tasks.base import StageConfig, Start, Task, build_objective
from toklip_jax.tasks.grpo.objective import GRPOObjective
from toklip_jax.training.state import Params

PARTS = ("generator", "teacher")


@dataclasses.dataclass(frozen=True)
class GRPOFields:
    """The fields of a stage that describe its models.

    Attributes:
        init: where the weights of the `generator` are, a class-conditional one with TokLIP as its
            tokenizer, and of a `teacher` where the reward needs one: paths, or "stage:NAME".
        prompts: a text for each class, which the rewards compare images with.
    """

    init: Mapping[str, str]
    prompts: tuple[str, ...]


def _read(section: Mapping[str, Any], where: str) -> GRPOFields:
    fields = from_fields(GRPOFields, section, where)
    for name in fields.init:
        check_name(f"a field of {where}.init", name, PARTS)
    if not fields.prompts or not all(isinstance(p, str) and p for p in fields.prompts):
        raise UserError(f"expected a text for each class in {where}.prompts, got {fields.prompts}")
    if not fields.init.get("generator"):
        raise UserError(f"expected the weights of a generator in {where}.init.generator, got none")
    return fields


def _start(stage: StageConfig, start: Start) -> tuple[GRPOObjective, Params]:
    fields: GRPOFields = stage.model
    weights = start.read_weights(fields.init["generator"])
    config = weights.config
    if family_of(config).role != "generator" or not hasattr(config.tokenizer, "text"):
        raise UserError(
            f"expected a generator with TokLIP as its tokenizer in {stage.name}.init.generator, "
            f"got {family_of(config).title}: its tokens and text tower are the reward's"
        )
    if len(fields.prompts) != config.gpt.num_classes:
        raise UserError(
            f"expected a prompt for each of {config.gpt.num_classes} classes in "
            f"{stage.name}.prompts, got {len(fields.prompts)}"
        )
    params = dict(weights.params)
    params |= {"start": params["gpt"], "prompts": _prompts(weights, fields.prompts, start.compute)}
    teacher = None
    if source := fields.init.get("teacher"):
        found = start.read_weights(source)
        if family_of(found.config).role != "teacher":
            raise UserError(
                f"expected a teacher in {stage.name}.init.teacher, got "
                f"{family_of(found.config).title}"
            )
        teacher, params["teacher"] = found.config.vision, found.params["image_tower"]
    objective = build_objective(
        GRPOObjective,
        stage,
        model_config=config,
        compute=start.compute,
        teacher_config=teacher,
        logit_scale=float(np.exp(params["tokenizer"]["logit_scale"])),
    )
    return objective, params


def _prompts(weights, texts, compute: Compute):
    """Normalised features of the prompts, float32 [classes, d]."""
    text = weights.config.tokenizer.text
    if weights.tokenizer_path is None:
        raise UserError(
            "expected a text tokenizer beside the generator's weights, found none: train the "
            "generator on TokLIP's weights that have one, or copy its tokenizer.json to them"
        )
    token_ids = TextTokenizer.load(weights.tokenizer_path, text.context_length)(list(texts))
    model = build_model(weights.config, compute)

    @jax.jit
    def features(params, token_ids):
        found = model.apply({"params": params}, token_ids, method="text_features")
        return l2_normalize(found.astype(jnp.float32))

    return np.asarray(features(weights.params, token_ids))


def _outline(stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute):
    raise UserError(f"expected weights for {stage.name}, which alone tell its model, got a plan")


def _batch(objective: GRPOObjective, size: tuple[int, ...] | None, batch_size: int):
    del objective, size
    return {"labels": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}


GRPO = Task(
    "grpo",
    GRPOObjective,
    GRPOFields,
    _read,
    _start,
    _outline,
    _batch,
    can_outline=lambda stage: False,
    needs_text=False,
    needs_labels=True,
    has_validation=False,
)
