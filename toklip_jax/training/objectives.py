"""What is trained: an objective is a model, a loss over a batch, and which parameters move.

The loop and the step know no more of it than `Objective` says; a new one is a class and a config.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax import losses
from toklip_jax.contrastive import KINDS, contrastive_loss
from toklip_jax.evaluation.subject import Subject
from toklip_jax.models.config import Compute, VisionConfig
from toklip_jax.models.teacher import ImageTower, Teacher, TeacherConfig
from toklip_jax.models.toklip import TokLIP, TokLIPConfig
from toklip_jax.models.vq import VQConfig
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import resize_images
from toklip_jax.training.state import Params

MAX_LOGIT_SCALE = (
    4.605170185988092  # ln 100, CLIP's bound; the released recipe clamps to [0, ln 100]
)
CACHED = ("teacher_feature", "text_feature")  # what a cache may hold besides ids
Batch = dict[str, Any]
Result = tuple[jax.Array, dict[str, jax.Array]]


@flax.struct.dataclass
class Encoded:
    """What an objective makes of some rows of a batch.

    Attributes:
        features: float arrays [b, ...] that `compare` sets against those of all other rows.
        loss: the mean over these rows of all that needs no other rows, float32 scalar.
        metrics: float32 scalars, means over the rows.
    """

    features: dict[str, Any]
    loss: Any
    metrics: dict[str, Any]


class Objective:
    """A training task: loss = mean over rows of `encode(...).loss`, plus `compare` of all rows.

    In these parts, a batch larger than fits can be taken chunk by chunk (see `step.gradients`).

    Attributes:
        trainable: patterns of the parameters that move (see `state.partition`).
        model_config: of the model whose weights the stage leaves.
    """

    trainable: tuple[str, ...]
    model_config: Any

    def init(self, rng: jax.Array) -> Params:
        """Returns fresh parameters of everything the loss needs; traceable."""
        raise NotImplementedError

    def prepare(self, params: Params, batch: Batch) -> Batch:
        """Returns the batch with what frozen parameters make of it, computed once a step."""
        return batch

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        """Computes what depends on each row alone, of a prepared batch."""
        raise NotImplementedError

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        """Returns the loss between rows and its metrics, of the whole (prepared) batch."""
        return jnp.float32(0), {}

    def constrain(self, params: Params) -> Params:
        """Returns trainable parameters put back into their bounds after an update."""
        return params

    @property
    def subject(self) -> Subject:
        """What an evaluation sees of the task."""
        raise NotImplementedError

    def subject_params(self, params: Params) -> Params:
        """Returns the parameters as `subject` has them."""
        raise NotImplementedError

    def loss(self, params: Params, batch: Batch, rng: jax.Array) -> Result:
        """Returns the loss to minimise and metrics, all float32 scalars."""
        batch = self.prepare(params, batch)
        encoded = self.encode(params, batch, rng)
        loss, metrics = self.compare(params, encoded.features, batch)
        return encoded.loss + loss, encoded.metrics | metrics


@dataclasses.dataclass(frozen=True)
class VQObjective(Objective):
    """Reconstruction through the quantiser: |x - y|^2 + |x - y| with codebook terms (VQ-VAE).

    Batches: `images` uint8 or float [b, h, w, 3].
    """

    model_config: VQConfig
    compute: Compute
    l1_weight: float = 0.0
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25  # LlamaGen's beta
    entropy_weight: float = 0.0  # LlamaGen's ratio
    trainable: tuple[str, ...] = (".*",)

    @property
    def model(self) -> nn.Module:
        return self.model_config.build(self.compute)

    def init(self, rng: jax.Array) -> Params:
        size = self.model_config.downsample
        return self.model.init(rng, jnp.zeros((1, size, size, 3)))["params"]

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        images = as_float(batch["images"])
        out = self.model.apply({"params": params}, images)
        error = out.images - images
        parts = {
            "mse": jnp.mean(error**2),
            "l1": jnp.mean(jnp.abs(error)),
            "codebook": losses.codebook_loss(out.latents, out.code_vectors),
            "commitment": losses.commitment_loss(out.latents, out.code_vectors),
        }
        total = (
            parts["mse"]
            + self.l1_weight * parts["l1"]
            + self.codebook_weight * parts["codebook"]
            + self.commitment_weight * parts["commitment"]
        )
        if self.entropy_weight:
            parts["entropy"] = losses.entropy_loss(out.latents, out.codebook)
            total = total + self.entropy_weight * parts["entropy"]
        used = jnp.zeros(self.model_config.codebook_size).at[out.ids.reshape(-1)].set(1)
        return Encoded({}, total, parts | {"codes_in_batch": jnp.mean(used)})

    @property
    def subject(self) -> Subject:
        return Subject(self.compute, vq=self.model_config)

    def subject_params(self, params: Params) -> Params:
        return {"vq": params}


@dataclasses.dataclass(frozen=True)
class TeacherObjective(Objective):
    """Image-text contrast from pixels, by SigLIP's sigmoid loss or CLIP's softmax.

    Batches: `images` [b, h, w, 3], `token_ids` int32 [b, t]. Texts that are equal within a batch
    match each other's images under the sigmoid loss.
    """

    model_config: TeacherConfig
    compute: Compute
    contrastive: str = "sigmoid"
    contrastive_block: int = 0  # texts at a time in the loss, 0 for all
    trainable: tuple[str, ...] = (".*",)

    def __post_init__(self):
        check_contrastive(self.contrastive, self.model_config.has_logit_bias)

    @property
    def model(self) -> Teacher:
        return Teacher(self.model_config, self.compute)

    def init(self, rng: jax.Array) -> Params:
        size, length = self.model_config.vision.image_size, self.model_config.text.context_length
        images, token_ids = jnp.zeros((1, size, size, 3)), jnp.zeros((1, length), jnp.int32)
        return self.model.init(rng, images, token_ids)["params"]

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        images, token_ids = as_float(batch["images"]), batch["token_ids"]
        image, text = self.model.apply({"params": params}, images, token_ids)
        return Encoded(_features(image, text), jnp.float32(0), {})

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        return _contrast(self, params, features, batch)

    @property
    def subject(self) -> Subject:
        config = self.model_config
        return Subject(self.compute, teacher=config.vision, text=config.text)

    def subject_params(self, params: Params) -> Params:
        return {"teacher": params["image_tower"], "text": params["text_tower"]}

    def constrain(self, params: Params) -> Params:
        return clamp_logit_scale(params)


@dataclasses.dataclass(frozen=True)
class TokLIPObjective(Objective):
    """Contrast on the frozen text tower, and distillation of the teacher's image feature.

    Batches as `TeacherObjective`'s, or from a cache: `ids` int [b, n] in place of images and, where
    they are cached, `teacher_feature` and `text_feature` [b, d], whose towers then don't run. One
    image batch serves both; where the teacher takes another size it is resized bilinearly.
    Parameters: TokLIP's, and the teacher's image tower's under `teacher`; the teacher's text tower
    never enters the loss.

    Attributes:
        contrastive_block: texts at a time in the contrastive loss, 0 for all.
        distillation_weight: of the mean squared error of normalised pooled features (paper: 1000).
        token_weight: of the same between normalised tokens (paper: 10); 0 leaves it out. Student
            and teacher need equal grids.
    """

    model_config: TokLIPConfig
    teacher_config: VisionConfig
    compute: Compute
    contrastive: str = "softmax"
    contrastive_block: int = 0
    contrastive_weight: float = 1.0
    distillation_weight: float = 1000.0
    token_weight: float = 0.0
    trainable: tuple[str, ...] = ("token_encoder/.*", "logit_scale")

    def __post_init__(self):
        check_contrastive(self.contrastive, self.model_config.has_logit_bias)
        grids = self.model_config.vision.grid, self.teacher_config.grid
        if self.token_weight and grids[0] != grids[1]:
            raise ValueError(
                f"expected token_weight 0 where student and teacher differ in grid, got "
                f"{self.token_weight} with grids {grids[0]} and {grids[1]}"
            )

    @property
    def model(self) -> TokLIP:
        return TokLIP(self.model_config, self.compute)

    @property
    def teacher(self) -> ImageTower:
        return ImageTower(self.teacher_config, self.compute)

    def init(self, rng: jax.Array) -> Params:
        size, length = self.model_config.vision.image_size, self.model_config.text.context_length
        images, token_ids = jnp.zeros((1, size, size, 3)), jnp.zeros((1, length), jnp.int32)
        params = self.model.init(rng, images, token_ids)["params"]
        size = self.teacher_config.image_size
        teacher = self.teacher.init(rng, jnp.zeros((1, size, size, 3)))["params"]
        return params | {"teacher": teacher}

    def prepare(self, params: Params, batch: Batch) -> Batch:
        if "ids" in batch:
            return jax.lax.stop_gradient(self._prepare_cached(batch))
        images = as_float(batch["images"])
        tokens, feature = self._teach(params["teacher"], images)
        prepared = {
            "token_ids": batch["token_ids"],
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
        parts, total = {}, jnp.float32(0)
        if "teacher_feature" in batch:  # left out of a cache where its weight is 0
            parts["distillation"] = losses.distillation_loss(
                l2_normalize(image), batch["teacher_feature"]
            )
            total = self.distillation_weight * parts["distillation"]
        if self.token_weight:
            parts["token_distillation"] = losses.distillation_loss(
                l2_normalize(tokens), batch["teacher_tokens"]
            )
            total = total + self.token_weight * parts["token_distillation"]
        return Encoded(_features(image, text), total, parts)

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        loss, metrics = _contrast(self, params, features, batch)
        return self.contrastive_weight * loss, metrics

    def text_feature(self, params: Params, token_ids: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Returns normalised text features, float32; traceable."""
        return l2_normalize(self._apply(params, token_ids, "text_features"))

    def expect_cached(self, fields: Collection[str]) -> None:
        """Raises ValueError where the loss needs what a cache with these fields doesn't have."""
        if self.token_weight:
            raise ValueError(
                f"expected token_weight 0 with a cache, which has no tokens of the teacher, got "
                f"{self.token_weight}: train from images"
            )
        if self.distillation_weight and "teacher_feature" not in fields:
            raise ValueError(
                f"expected teacher_feature in the cache for distillation_weight "
                f"{self.distillation_weight}, got {sorted(fields)}: encode with it in "
                f"encode.features, or set distillation_weight to 0"
            )

    @property
    def subject(self) -> Subject:
        return Subject(self.compute, toklip=self.model_config, teacher=self.teacher_config)

    def subject_params(self, params: Params) -> Params:
        toklip = {name: value for name, value in params.items() if name != "teacher"}
        return {"toklip": toklip, "teacher": params["teacher"]}

    def constrain(self, params: Params) -> Params:
        return clamp_logit_scale(params)

    def _prepare_cached(self, batch):
        self.expect_cached(batch)
        # Of length 1 again: bfloat16 has rounded them.
        kept = {n: l2_normalize(batch[n].astype(jnp.float32)) for n in CACHED if n in batch}
        return kept | {"token_ids": batch["token_ids"], "ids": batch["ids"].astype(jnp.int32)}

    def _apply(self, params, inputs, method):
        return self.model.apply({"params": params}, inputs, method=method)

    def _teach(self, params, images):
        size = self.teacher_config.image_size
        if images.shape[1] != size:
            images = resize_images(images, size, size)
        teacher, params = self.teacher, {"params": params}
        tokens = teacher.apply(params, images, method="tokens")
        return tokens, l2_normalize(teacher.apply(params, tokens, method="pool_tokens"))


def _features(image, text):
    return {"image": l2_normalize(image), "text": l2_normalize(text)}


def _contrast(objective, params, features, batch):
    loss = contrastive_loss(
        objective.contrastive,
        features["image"],
        features["text"],
        params["logit_scale"],
        params.get("logit_bias"),
        batch["token_ids"],
        objective.contrastive_block,
    )
    return loss, {"contrastive": loss, "logit_scale": jnp.exp(params["logit_scale"])}


def check_contrastive(kind: str, has_logit_bias: bool) -> None:
    """Raises ValueError for an unknown loss, or a sigmoid without the bias it needs."""
    if kind not in KINDS:
        raise ValueError(f"expected contrastive of {KINDS}, got {kind!r}")
    if kind == "sigmoid" and not has_logit_bias:
        raise ValueError("expected has_logit_bias=True with the sigmoid loss, got False")


def clamp_logit_scale(params: Params) -> Params:
    """Returns parameters with `logit_scale`, where it is among them, within [0, ln 100]."""
    if "logit_scale" not in params:
        return params
    return params | {"logit_scale": jnp.clip(params["logit_scale"], 0, MAX_LOGIT_SCALE)}


def as_float(images: jax.Array) -> Float[Array, "b h w 3"]:
    """Returns images in [-1, 1]: uint8 as (u / 255 - 0.5) / 0.5, float as they are."""
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) / 255 - 0.5) / 0.5
    return images.astype(jnp.float32)
