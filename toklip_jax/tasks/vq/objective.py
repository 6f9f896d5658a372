"""The objective of a VQ tokenizer: reconstruction through a quantiser."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_not_negative
from toklip_jax.evaluation.models import Models
from toklip_jax.models.registry import VQConfig, build_model, init_params
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.training.objective import Batch, Encoded, Result, count_rows, sum_rows
from toklip_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class VQObjective(ModelObjective):
    """Reconstruction through the quantiser: |x - y|^2 + |x - y| with codebook terms (VQ-VAE).

    Batches: `images` uint8 or float in [-1, 1], [b, *size, 3]; perhaps `mask`.

    Attributes:
        l1_weight: of |x - y|.
        codebook_weight: weight of the quantiser's loss "codebook".
        commitment_weight: weight of "commitment"; the default is LlamaGen's beta.
        entropy_weight: weight of "entropy", which compares the rows of the whole batch.
    """

    model_config: VQConfig
    compute: Compute
    l1_weight: float = 0.0
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    entropy_weight: float = 0.0
    trainable: tuple[str, ...] = (".*",)

    def __post_init__(self):
        weights = ("l1_weight", "codebook_weight", "commitment_weight", "entropy_weight")
        check_not_negative(self, *weights)

    @property
    def model(self) -> nn.Module:
        return build_model(self.model_config, self.compute)

    def init(self, rng: jax.Array) -> Params:
        return init_params(self.model_config, self.compute, rng)

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        images, mask = to_unit_range(batch["images"]), batch.get("mask")
        out = self.model.apply({"params": params}, images)
        error = (out.images - images).reshape(len(images), -1)
        rows = {
            "mse": jnp.mean(error**2, axis=1),
            "l1": jnp.mean(jnp.abs(error), axis=1),
            **out.losses,
        }
        weights = self._weights(rows)
        losses = sum(weights[name] * rows[name] for name in rows if weights[name])
        metrics = {name: sum_rows(values, mask) for name, values in rows.items()}
        features = {"latents": out.latents} if self.entropy_weight else {}
        return Encoded(
            features, sum_rows(losses, mask), count_rows(batch), metrics, {"ids": out.ids}
        )

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        metrics = {"codes_in_batch": self._share_of_codes(batch["ids"], batch.get("mask"))}
        if not self.entropy_weight:
            return jnp.float32(0), metrics
        between = self.model.apply(
            {"params": params}, features["latents"], batch.get("mask"), method="between_rows"
        )
        weights = self._weights(between)
        total = sum(weights[name] * loss for name, loss in between.items())
        return total, metrics | between

    @property
    def evaluated_models(self) -> Models:
        return Models.from_configs(self.compute, {"vq": self.model_config})

    def evaluated_params(self, params: Params) -> Params:
        return {"vq": params}

    def _weights(self, losses):
        weights = {
            "mse": 1.0,
            "l1": self.l1_weight,
            "codebook": self.codebook_weight,
            "commitment": self.commitment_weight,
            "entropy": self.entropy_weight,
        }
        if unknown := sorted(set(losses) - set(weights)):
            raise UserError(
                f"expected a quantiser's losses among {sorted(weights)}, got {unknown}: weigh them "
                f"in an objective of your own"
            )
        return weights

    def _share_of_codes(self, ids, mask):
        """Returns the share of all codes that occur, over all codebooks of a place."""
        sizes = self.model_config.codebook_sizes
        ids = ids.reshape(len(ids), -1, len(sizes))  # [b, n, q]
        counted = jnp.ones(len(ids)) if mask is None else mask.astype(jnp.float32)
        counted = jnp.broadcast_to(counted[:, None], ids.shape[:2])
        used = [
            jnp.sum(jnp.zeros(size).at[ids[..., i]].max(counted)) for i, size in enumerate(sizes)
        ]
        return sum(used) / math.fsum(sizes)
