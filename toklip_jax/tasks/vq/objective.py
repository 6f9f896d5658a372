"""The objective of a VQ tokenizer: reconstruction through a quantiser."""

import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_not_negative
from toklip_jax.evaluation.models import Models
from toklip_jax.models.registry import VQConfig, build_model, init_params
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.tasks.vq.dead_codes import (
    CANDIDATES,
    CODE_USE,
    IS_COUNTED,
    initial_use,
    replace_dead_codes,
)
from toklip_jax.training.objective import (
    STATISTICS,
    Batch,
    Encoded,
    Result,
    count_rows,
    sum_rows,
)
from toklip_jax.training.state import Params

MOMENTUM = 0.1  # of running statistics, torch's BatchNorm's


@dataclasses.dataclass(frozen=True)
class VQObjective(ModelObjective):
    """Reconstruction through the quantiser: |x - y|^2 + |x - y| with codebook terms (VQ-VAE).

    Adversarial losses, which published tokenizers add, are not part of it; `PerceptualVQObjective`
    adds a perceptual one.
    A tokenizer's running batch statistics are kept up to date; in chunks they are those of chunks.

    Batches: `images` uint8 or float in [-1, 1], [b, *size, 3]; perhaps `mask`.

    Attributes:
        l1_weight: of |x - y|.
        codebook_weight: weight of the quantiser's loss "codebook".
        commitment_weight: weight of "commitment"; the default is LlamaGen's beta.
        entropy_weight: weight of "entropy", which compares the rows of the whole batch.
        dead_code_share: a code is replaced by a random latent of the batch when it is chosen less
            often than this share of 1 / z, in a running mean; 0 replaces none.
    """

    model_config: VQConfig
    compute: Compute
    l1_weight: float = 0.0
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    entropy_weight: float = 0.0
    dead_code_share: float = 0.0
    trainable: tuple[str, ...] = (".*",)

    def __post_init__(self):
        weights = ("l1_weight", "codebook_weight", "commitment_weight", "entropy_weight")
        check_not_negative(self, *weights, "dead_code_share")
        if self.dead_code_share and not any(re.fullmatch(p, CODE_USE) for p in self.trainable):
            raise UserError(
                f"expected loss.trainable to match the codebook and {CODE_USE!r} with a "
                f"dead_code_share of {self.dead_code_share:g}, which changes both, got "
                f"{self.trainable}: add them, or set dead_code_share to 0"
            )

    @property
    def model(self) -> nn.Module:
        return build_model(self.model_config, self.compute)

    def init(self, rng: jax.Array) -> Params:
        params = init_params(self.model_config, self.compute, rng)
        return params | initial_use(self.model_config, params) if self.dead_code_share else params

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        images, mask = to_unit_range(batch["images"]), batch.get("mask")
        out, state = self.model.apply({"params": params}, images, mutable=["statistics"])
        rows = self.image_losses(params, images, out.images) | out.losses
        weights = self._weights(rows)
        losses = sum(weights[name] * rows[name] for name in rows if weights[name])
        metrics = {name: sum_rows(values, mask) for name, values in rows.items()}
        weight = count_rows(batch)
        if running := flax.traverse_util.flatten_dict(state.get("statistics", {}), sep="/"):
            running = jax.lax.stop_gradient(running)
            metrics[STATISTICS] = {path: weight * value for path, value in running.items()}
        is_compared = self.entropy_weight or self.dead_code_share
        features = {"latents": out.latents} if is_compared else {}
        return Encoded(features, sum_rows(losses, mask), weight, metrics, {"ids": out.ids})

    def image_losses(
        self, params: Params, images: Float[Array, "b *size 3"], made: Float[Array, "b *size 3"]
    ) -> dict[str, Float[Array, "b"]]:
        """Returns each row's losses between its image and what was decoded, in [-1, 1], by name."""
        error = (made - images).reshape(len(images), -1)
        return {"mse": jnp.mean(error**2, axis=1), "l1": jnp.mean(jnp.abs(error), axis=1)}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss by its name."""
        return {
            "mse": 1.0,
            "l1": self.l1_weight,
            "codebook": self.codebook_weight,
            "commitment": self.commitment_weight,
            "entropy": self.entropy_weight,
        }

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        uses = self._uses(batch["ids"], batch.get("mask"))
        sizes = self.model_config.codebook_sizes
        metrics = {"codes_in_batch": sum(jnp.sum(use > 0) for use in uses) / math.fsum(sizes)}
        if self.dead_code_share:
            latents = jax.lax.stop_gradient(features["latents"])
            candidates = self._apply(params, latents, batch["ids"], method="compared")
            b, n, _ = latents.shape
            is_counted = jnp.repeat(batch.get("mask", jnp.ones(b, bool)), n)  # [b * n]
            metrics[STATISTICS] = {
                CODE_USE: jnp.concatenate(uses),
                CANDIDATES: candidates,
                # Codebooks that several searches share have all their candidates, in turn.
                IS_COUNTED: jnp.tile(is_counted, candidates.shape[1] // (b * n)),
            }
        if not self.entropy_weight:
            return jnp.float32(0), metrics
        between = self._apply(params, features["latents"], batch.get("mask"), method="between_rows")
        weights = self._weights(between)
        if "entropy" not in between:
            raise UserError(
                f"expected a quantiser with an entropy loss for entropy_weight "
                f"{self.entropy_weight:g}, got {self.model_config}, which has none: set it to 0"
            )
        total = sum(weights[name] * loss for name, loss in between.items())
        return total, metrics | between

    def refresh(self, params: Params, statistics: dict[str, Any], rng: jax.Array) -> Params:
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        for path in statistics.keys() & flat.keys() - {CODE_USE}:
            flat[path] = flat[path] + MOMENTUM * (statistics[path] - flat[path])
        if CODE_USE in statistics:
            flat |= replace_dead_codes(flat, statistics, self.dead_code_share, rng)
        return flax.traverse_util.unflatten_dict(flat, sep="/")

    def model_params(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if name != CODE_USE}

    @property
    def evaluated_models(self) -> Models:
        return Models.from_configs(self.compute, {"vq": self.model_config})

    def evaluated_params(self, params: Params) -> Params:
        return {"vq": self.model_params(params)}

    def _apply(self, params, *inputs, method):
        return self.model.apply({"params": params}, *inputs, method=method)

    def _weights(self, losses):
        weights = self.weights
        if unknown := sorted(set(losses) - set(weights)):
            raise UserError(
                f"expected a quantiser's losses among {sorted(weights)}, got {unknown}: weigh them "
                f"in an objective of your own"
            )
        return weights

    def _uses(self, ids, mask):
        """Returns each codebook's codes' shares of the batch's places, [z] each."""
        sizes = self.model_config.codebook_sizes
        ids = ids.reshape(len(ids), -1, len(sizes))  # [b, n, q]
        counted = jnp.ones(len(ids)) if mask is None else mask.astype(jnp.float32)
        counted = jnp.broadcast_to(counted[:, None], ids.shape[:2])
        total = jnp.maximum(jnp.sum(counted), 1)
        return [
            jnp.zeros(size).at[ids[..., i]].add(counted) / total for i, size in enumerate(sizes)
        ]
