"""GRPO on ids: images are drawn in groups, and those above their group's mean are made likelier."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_not_negative
from toklip_jax.decoding import Sampling
from toklip_jax.decoding.images import sample_images
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.siglip.model import ImageTower
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import fit_images
from toklip_jax.tasks.generator.objective import GPT_ALONE, GeneratorObjective, known_labels
from toklip_jax.training.objective import Batch, Encoded, count_rows, sum_rows
from toklip_jax.training.state import Params

REWARDS = ("toklip", "teacher")
SPREAD = 1e-6  # added to a group's standard deviation, whose rewards may all be equal


@dataclasses.dataclass(frozen=True)
class GRPOObjective(GeneratorObjective):
    """Group-relative policy optimisation (arXiv 2402.03300) of a class-conditional generator.

    For each label a group of images is drawn from the current model, without guidance. An image's
    advantage is its reward, less the group's mean, over the group's standard deviation. The loss is

        -advantage * mean_i log p(id_i) + kl_weight * mean_i (r_i - log r_i - 1),

    where r_i = p_start(id_i) / p(id_i) estimates the divergence from the model that training began
    with. Each group is used for one update, so no ratio to an older model needs clipping.

    Batches: `labels` int [b]; perhaps `mask`. What else is in them isn't read.
    Parameters: the generator's; `start`, the GPT that it began with; `prompts` [classes, d],
    normalised text features; with the reward "teacher", the image tower `teacher`.

    Attributes:
        teacher_config: the image tower's, or None.
        logit_scale: multiplies similarities in the classes' softmax: the text tower's own.
        group_size: images that are drawn for each label.
        reward: "toklip", the probability of the label by TokLIP's feature of the ids, without
            pixels; or "teacher", the same by the teacher's feature of the decoded image.
        kl_weight: weight of the divergence.
    """

    teacher_config: VisionConfig | None = None
    logit_scale: float = 1.0
    group_size: int = 8
    reward: str = "toklip"
    kl_weight: float = 0.02
    trainable: tuple[str, ...] = GPT_ALONE

    def __post_init__(self):
        super().__post_init__()
        check_name("a reward", self.reward, REWARDS)
        check_not_negative(self, "kl_weight")
        if self.group_size < 2:
            raise UserError(f"expected a group_size of at least 2, got {self.group_size}")
        if not all(pattern.startswith("gpt/") for pattern in self.trainable):
            raise UserError(
                f"expected loss.trainable to name parameters of the GPT, gpt/..., as rewards and "
                f"start stay as they are, got {self.trainable}"
            )
        if self.reward == "teacher" and self.teacher_config is None:
            raise UserError("expected init.teacher with reward='teacher', got none")

    def prepare(self, params: Params, batch: Batch) -> Batch:
        return {name: batch[name] for name in ("labels", "mask") if name in batch}

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        labels = known_labels(batch["labels"], self.model_config.gpt.num_classes)
        b, group = len(labels), self.group_size
        repeated = jnp.repeat(labels, group)
        keys = jax.random.split(rng, b * group)
        policy = {name: params[name] for name in ("gpt", "tokenizer")}
        ids = jax.lax.stop_gradient(sample_images(self.model, policy, repeated, keys, Sampling()))
        rewards = jax.lax.stop_gradient(self.rewards(params, ids, repeated)).reshape(b, group)
        spread = jnp.std(rewards, axis=1, keepdims=True) + SPREAD
        advantages = (rewards - jnp.mean(rewards, axis=1, keepdims=True)) / spread
        logp = -self._token_losses(policy, ids, repeated)  # [b * group, n * q]
        start = policy | {"gpt": params["start"]}
        before = -jax.lax.stop_gradient(self._token_losses(start, ids, repeated))
        ratio = before - logp
        divergence = jnp.mean(jnp.exp(ratio) - ratio - 1, axis=1).reshape(b, group)
        gain = advantages * jnp.mean(logp, axis=1).reshape(b, group)
        mask = batch.get("mask")
        rows = {
            "reward": jnp.mean(rewards, axis=1),
            "reward_spread": jnp.std(rewards, axis=1),
            "kl": jnp.mean(divergence, axis=1),
            "policy": -jnp.mean(gain, axis=1),
        }
        total = rows["policy"] + self.kl_weight * rows["kl"]
        metrics = {name: sum_rows(values, mask) for name, values in rows.items()}
        return Encoded({}, sum_rows(total, mask), count_rows(batch), metrics)

    def rewards(
        self, params: Params, ids: Int[Array, "b n *q"], labels: Int[Array, " b"]
    ) -> Float[Array, " b"]:
        """Returns each image's probability of its label, in [0, 1]."""
        if self.reward == "toklip":
            features = self._apply(params, ids, method="image_features")
        else:
            features = self._teach(params, ids)
        logits = self.logit_scale * l2_normalize(features) @ params["prompts"].T
        return jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=1)[:, 0]

    def model_params(self, params: Params) -> Params:
        return {name: params[name] for name in ("gpt", "tokenizer")}

    def evaluated_params(self, params: Params):
        return super().evaluated_params(self.model_params(params))

    def _token_losses(self, params, ids, labels):
        losses = self.token_losses(params, ids, labels)
        return losses.reshape(len(ids), -1)

    def _teach(self, params, ids):
        images = jnp.clip(self._apply(params, ids, method="detokenize"), -1, 1)
        tower = ImageTower(self.teacher_config, self.compute)
        images = fit_images(images, self.teacher_config.size)
        return tower.apply({"params": params["teacher"]}, images)

    def _apply(self, params, *inputs, method):
        policy = {name: params[name] for name in ("gpt", "tokenizer")}
        return self.model.apply({"params": policy}, *inputs, method=method)
