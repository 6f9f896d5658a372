"""Objectives: a model, a loss over a batch, and which parameters are trained.

The loop and the step know nothing else about a task. Losses are sums with the weight that
divides them, never means, so that masks, ragged batches, accumulation and several hosts are exact.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from toklip_jax.nn.config import Compute
from toklip_jax.training.state import Params

Batch = dict[str, Any]
Result = tuple[jax.Array, dict[str, Any]]
STATISTICS = "statistics"  # among metrics: arrays by name, for `refresh` and not for the log


@flax.struct.dataclass
class Encoded:
    """The result of encoding some rows of a batch.

    Attributes:
        features: float arrays [b, ...] that `compare` compares between all rows; gradients pass.
        loss_sum: sum over these rows of the losses that need no other rows, float32 scalar.
        weight: the divisor of the sum: the number of rows that count, or of their tokens. It
            depends on no trainable parameter.
        metrics: float32 scalars, sums that the same weight divides. `STATISTICS` among them are
            arrays by name.
        rows: arrays [b, ...] that `compare` finds in its batch; no gradient passes.
    """

    features: dict[str, Any]
    loss_sum: Any
    weight: Any
    metrics: dict[str, Any]
    rows: dict[str, Any] = flax.struct.field(default_factory=dict)


class Objective:
    """A training task: loss = sum of `encode(...).loss_sum` / weight + `compare` of all rows.

    In these parts, a batch larger than fits can be computed in chunks (see `step.gradients`). A
    batch may hold `mask`, bool [b]: rows that don't count.

    Attributes:
        model_config: config of the model whose weights the stage saves.
        compute: how it computes.
        trainable: patterns of the parameters that are trained (see `state.partition`).
        sharding: rules that go before the common ones (see `parallel.sharding`).
        embeddings: patterns of parameters below the first block, for layer decay.
        full_precision: patterns of frozen parameters that stay float32.
    """

    model_config: Any
    compute: Compute
    trainable: tuple[str, ...]
    sharding: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    embeddings: tuple[str, ...] = ()
    full_precision: tuple[str, ...] = ()

    def init(self, rng: jax.Array) -> Params:
        """Returns new parameters of everything the loss needs; traceable."""
        raise NotImplementedError

    def prepare(self, params: Params, batch: Batch) -> Batch:
        """Returns the batch with the outputs of frozen models, computed once a step."""
        return batch

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        """Computes everything that depends on single rows of a prepared batch."""
        raise NotImplementedError

    def compare(self, params: Params, features: dict[str, Any], batch: Batch) -> Result:
        """Returns the loss between rows and its metrics.

        Args:
            features: the features of all rows.
            batch: the whole prepared batch, with the `rows` of `Encoded`.
        """
        return jnp.float32(0), {}

    def constrain(self, params: Params) -> Params:
        """Returns trainable parameters, clipped to their bounds after an update."""
        return params

    def refresh(self, params: Params, statistics: dict[str, Any], rng: jax.Array) -> Params:
        """Returns trainable parameters, with those that no gradient trains brought up to date.

        It runs after an update: for running statistics, or codes that no latent chooses.

        Args:
            statistics: the `STATISTICS` of `encode`, averaged, and of `compare`.
        """
        del statistics, rng
        return params

    def model_params(self, params: Params) -> Params:
        """Returns the parameters of the model whose weights the stage saves."""
        return params

    def loss(self, params: Params, batch: Batch, rng: jax.Array) -> Result:
        """Returns the loss to minimise and metrics: float32 scalars, and perhaps `STATISTICS`."""
        batch = self.prepare(params, batch)
        encoded = self.encode(params, batch, rng)
        between, metrics = self.compare(params, encoded.features, batch | encoded.rows)
        loss, own = averages(encoded.loss_sum, encoded.metrics, encoded.weight)
        return loss + between, join_metrics(own, metrics)


def averages(loss_sum: Any, metrics: dict[str, Any], weight: Any) -> Result:
    """Returns the loss and metrics as averages of the given sums; 0 if nothing counts."""
    weight = jnp.where(weight > 0, weight, 1)
    return loss_sum / weight, jax.tree.map(lambda total: total / weight, metrics)


def join_metrics(own: dict[str, Any], between: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics of `encode` and of `compare` together."""
    statistics = own.get(STATISTICS, {}) | between.get(STATISTICS, {})
    return own | between | ({STATISTICS: statistics} if statistics else {})


def sum_rows(values: Float[Array, " b"], mask: Bool[Array, " b"] | None = None) -> Float[Array, ""]:
    """Returns the sum over the rows that count; the values of other rows don't matter."""
    return jnp.sum(values if mask is None else jnp.where(mask, values, 0))


def count_rows(batch: Batch) -> Float[Array, ""]:
    """Returns how many rows of a batch count."""
    if "mask" in batch:
        return jnp.sum(batch["mask"].astype(jnp.float32))
    return jnp.float32(len(jax.tree.leaves(batch)[0]))
