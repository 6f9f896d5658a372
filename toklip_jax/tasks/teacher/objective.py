"""Image-text contrast from pixels: how a SigLIP teacher is trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.fields import check_not_negative
from toklip_jax.evaluation.models import Models
from toklip_jax.models.registry import init_params
from toklip_jax.models.siglip.config import TeacherConfig, expect_text
from toklip_jax.models.siglip.model import Teacher
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.contrast import (
    check_contrastive,
    clamp_logit_scale,
    contrast,
    features_to_compare,
)
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.training.objective import Batch, Encoded, Result, count_rows
from toklip_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class TeacherObjective(ModelObjective):
    """Image-text contrast from pixels, by SigLIP's sigmoid loss or CLIP's softmax.

    Batches: `images` [b, h, w, 3], `token_ids` int32 [b, t]; perhaps `mask`. Texts that are equal
    within a batch match each other's images under the sigmoid loss.

    Attributes:
        contrastive: "softmax" or "sigmoid".
        contrastive_block: texts at a time in the loss, 0 for all.
        trainable: patterns of trained parameters.
    """

    model_config: TeacherConfig
    compute: Compute
    contrastive: str = "sigmoid"
    contrastive_block: int = 0
    trainable: tuple[str, ...] = (".*",)

    def __post_init__(self):
        expect_text(self.model_config)
        check_contrastive(self.contrastive, self.model_config.has_logit_bias)
        check_not_negative(self, "contrastive_block")

    @property
    def model(self) -> Teacher:
        return Teacher(self.model_config, self.compute)

    def init(self, rng: jax.Array) -> Params:
        return init_params(self.model_config, self.compute, rng)

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        images, token_ids = to_unit_range(batch["images"]), batch["token_ids"]
        image, text = self.model.apply({"params": params}, images, token_ids)
        return Encoded(features_to_compare(image, text), jnp.float32(0), count_rows(batch), {})

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        return contrast(self.contrastive, params, features, batch, self.contrastive_block)

    def constrain(self, params: Params) -> Params:
        return clamp_logit_scale(params)

    @property
    def evaluated_models(self) -> Models:
        return Models.from_configs(self.compute, {"teacher": self.model_config})

    def evaluated_params(self, params: Params) -> Params:
        return {"teacher": params}
