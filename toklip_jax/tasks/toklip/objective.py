"""TokLIP's own training: contrast on a frozen text tower, distillation of a teacher's features."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_not_negative
from toklip_jax.evaluation.models import Model, Models
from toklip_jax.losses.plain import distillation_losses
from toklip_jax.models.registry import init_params
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.siglip.model import ImageTower
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.ops.resample import fit_images
from toklip_jax.tasks.cache_layout import CacheLayout, map_crops
from toklip_jax.tasks.contrast import (
    check_contrastive,
    clamp_logit_scale,
    contrast,
    features_to_compare,
)
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.training.objective import Batch, Encoded, Result, count_rows, sum_rows
from toklip_jax.training.state import Params, partition

CACHED = ("teacher_feature", "text_feature")  # that a cache may hold besides ids
# The parameters that make each field of a cache.
MADE_BY = {"ids": "vq", "teacher_feature": "teacher", "text_feature": "text_tower"}


@dataclasses.dataclass(frozen=True)
class TokLIPObjective(ModelObjective):
    """Contrast on the frozen text tower, and distillation of the teacher's image feature.

    Batches as `TeacherObjective`'s, or from a cache: `ids` int [b, n] in place of images and, where
    they are cached, `teacher_feature` and `text_feature` [b, d], whose towers then don't run. One
    image batch serves both; where the teacher takes another size it is resized bilinearly.
    Parameters: TokLIP's, and the teacher's image tower's under `teacher`; the teacher's text tower
    never enters the loss.

    Attributes:
        contrastive: "softmax" or "sigmoid".
        contrastive_weight: weight of the contrastive loss.
        contrastive_block: texts at a time in the contrastive loss, 0 for all.
        distillation_weight: weight of the squared error of normalised pooled features (paper:
            1000).
        token_weight: weight of that of normalised tokens (paper: 10); 0 leaves it out. Student
            and teacher need equal grids.
        trainable: patterns of trained parameters, by default the token encoder and `logit_scale`;
            with the sigmoid loss, its bias too.
    """

    model_config: TokLIPConfig
    teacher_config: VisionConfig
    compute: Compute
    contrastive: str = "softmax"
    contrastive_block: int = 0
    contrastive_weight: float = 1.0
    distillation_weight: float = 1000.0
    token_weight: float = 0.0
    trainable: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.trainable:
            default = self.trained_by({"contrastive": self.contrastive})
            object.__setattr__(self, "trainable", default)
        check_contrastive(self.contrastive, self.model_config.has_logit_bias)
        weights = ("contrastive_weight", "distillation_weight", "token_weight")
        check_not_negative(self, "contrastive_block", *weights)
        grids = self.model_config.vision.grid, self.teacher_config.grid
        if self.token_weight and grids[0] != grids[1]:
            raise UserError(
                f"expected token_weight 0 where student and teacher differ in grid, got "
                f"{self.token_weight} with grids {grids[0]} and {grids[1]}"
            )

    @classmethod
    def trained_by(cls, loss: Mapping[str, Any]) -> tuple[str, ...]:
        if loss.get("trainable"):
            return tuple(loss["trainable"])
        is_sigmoid = loss.get("contrastive", cls.contrastive) == "sigmoid"
        return ("token_encoder/.*", "logit_scale", *(("logit_bias",) if is_sigmoid else ()))

    @property
    def model(self) -> TokLIP:
        return TokLIP(self.model_config, self.compute)

    @property
    def teacher(self) -> ImageTower:
        return ImageTower(self.teacher_config, self.compute)

    def init(self, rng: jax.Array) -> Params:
        params = init_params(self.model_config, self.compute, rng)
        teacher = self.teacher.init(rng, jnp.zeros((1, *self.teacher_config.size, 3)))["params"]
        return params | {"teacher": teacher}

    def prepare(self, params: Params, batch: Batch) -> Batch:
        if "ids" in batch:
            return jax.lax.stop_gradient(self._prepare_cached(batch))
        images = to_unit_range(batch["images"])
        tokens, feature = self._teach(params["teacher"], images)
        prepared = {name: batch[name] for name in ("token_ids", "mask") if name in batch} | {
            "ids": self._apply(params, images, "tokenize"),
            "teacher_feature": feature,
        }
        if self.token_weight:
            prepared["teacher_tokens"] = l2_normalize(tokens)
        return jax.lax.stop_gradient(prepared)

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        tokens = self._apply(params, batch["ids"], "semantic_tokens")
        image = self._apply(params, tokens, "pool_tokens")
        text = batch.get("text_feature")
        if text is None:
            text = self._apply(params, batch["token_ids"], "text_features")
        mask, rows = batch.get("mask"), {}
        if "teacher_feature" in batch:  # left out of a cache where its weight is 0
            rows["distillation"] = distillation_losses(
                l2_normalize(image), batch["teacher_feature"]
            )
        if self.token_weight:
            rows["token_distillation"] = distillation_losses(
                l2_normalize(tokens), batch["teacher_tokens"]
            )
        metrics = {name: sum_rows(values, mask) for name, values in rows.items()}
        weights = {
            "distillation": self.distillation_weight,
            "token_distillation": self.token_weight,
        }
        total = sum((weights[name] * value for name, value in metrics.items()), jnp.float32(0))
        return Encoded(features_to_compare(image, text), total, count_rows(batch), metrics)

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        loss, metrics = contrast(self.contrastive, params, features, batch, self.contrastive_block)
        return self.contrastive_weight * loss, metrics

    def text_feature(self, params: Params, token_ids: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Returns normalised text features, float32; traceable."""
        return l2_normalize(self._apply(params, token_ids, "text_features"))

    def expect_cached(self, fields: Collection[str]) -> None:
        """Raises ValueError if the loss needs more than these fields of a cache."""
        if self.token_weight:
            raise UserError(
                f"expected token_weight 0 with a cache, which has no tokens of the teacher, got "
                f"{self.token_weight}: train from images"
            )
        if self.distillation_weight and "teacher_feature" not in fields:
            raise UserError(
                f"expected teacher_feature in the cache for distillation_weight "
                f"{self.distillation_weight}, got {sorted(fields)}: encode with it in "
                f"encode.features, or set distillation_weight to 0"
            )

    @property
    def cache_layout(self) -> CacheLayout:
        """The sizes of what a cache of the frozen models holds."""
        config = self.model_config
        widths = {"teacher_feature": config.vision.width, "text_feature": config.text.embed_dim}
        vision = config.vision
        return CacheLayout(
            config.vq, vision.image_size, vision.grid, config.text.vocab_size, widths
        )

    def cached_parts(self, params: Params, features: Collection[str]) -> dict[str, Params]:
        """Returns the parameters that make a cache with these features, by the parts' names."""
        return {part: params[part] for part in parts_of(("ids", *features))}

    def cached_fields(self, section: Any, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Returns the fields stored for a batch, arrays [b, crops or 1, ...]; traceable.

        Args:
            section: the config's section `encode`.
            batch: `images` [b, crops, h, w, 3], `token_ids` [b, crops or 1, t].
        """
        dtype = jnp.dtype(section.feature_dtype)

        def of_images(images):
            no_text = jnp.zeros((len(images), 1), jnp.int32)
            made = self.prepare(params, {"images": images, "token_ids": no_text})
            kept = {"ids": made["ids"]}
            if "teacher_feature" in section.features:
                kept["teacher_feature"] = made["teacher_feature"].astype(dtype)
            return kept

        def of_texts(token_ids):
            return {"text_feature": self.text_feature(params, token_ids).astype(dtype)}

        made = map_crops(of_images, batch["images"])
        if "text_feature" in section.features:
            made |= map_crops(of_texts, batch["token_ids"])
        return made

    def expect_encodable(self, params: Params, features: Collection[str]) -> None:
        """Raises ValueError for features that TokLIP has none of, or that training would change."""
        if unknown := [name for name in features if name not in CACHED]:
            raise UserError(
                f"expected encode.features of {CACHED} with TokLIP, got {unknown[0]!r}: leave it "
                f"out"
            )
        trainable, _ = partition(params, self.trainable)
        if "text_feature" in features and "text_tower" in trainable:
            raise UserError(
                "expected no text_feature in encode.features where the text tower is trained, got "
                "it: set encode.features=('teacher_feature',)"
            )

    @property
    def evaluated_models(self) -> Models:
        toklip = Model(self.model, self.model_config.vision.size)
        teacher = Model(self.teacher, self.teacher_config.size)
        return Models(self.compute, {"toklip": toklip, "teacher": teacher})

    def evaluated_params(self, params: Params) -> Params:
        return {"toklip": self.model_params(params), "teacher": params["teacher"]}

    def model_params(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if name != "teacher"}

    def constrain(self, params: Params) -> Params:
        return clamp_logit_scale(params)

    def _prepare_cached(self, batch):
        self.expect_cached(batch)
        # Back to unit length: bfloat16 has rounded them.
        kept = {n: l2_normalize(batch[n].astype(jnp.float32)) for n in CACHED if n in batch}
        kept |= {name: batch[name] for name in ("token_ids", "mask") if name in batch}
        return kept | {"ids": batch["ids"].astype(jnp.int32)}

    def _apply(self, params, inputs, method):
        return self.model.apply({"params": params}, inputs, method=method)

    def _teach(self, params, images):
        images = fit_images(images, self.teacher_config.size)
        teacher, params = self.teacher, {"params": params}
        tokens = teacher.apply(params, images, method="tokens")
        return tokens, l2_normalize(teacher.apply(params, tokens, method="pool_tokens"))


def parts_of(fields: Collection[str]) -> list[str]:
    """Returns the names of the parameters that made a cache's fields."""
    return [part for field, part in MADE_BY.items() if field in fields]
