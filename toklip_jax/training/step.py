"""The training step: one jitted function over a mesh, for every objective."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from toklip_jax.core.errors import UserError
from toklip_jax.parallel.sharding import Rules, batch_sharding, shardings
from toklip_jax.training.objective import STATISTICS, Objective, averages, join_metrics
from toklip_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from toklip_jax.training.state import Params, TrainState, merge, with_zeros

Metrics = dict[str, Any]
MISSING = "is_missing"  # in a batch: bool [b], rows that stand for others that could not be read


def create_state(params: Params, config: OptimizerConfig, total_steps: int) -> TrainState:
    """Returns the state before the first step. Trace it to have it sharded from the start."""
    opt_state = make_optimizer(config, total_steps).init(params)
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, opt_state, ema, zero)


def make_step(
    objective: Objective,
    config: OptimizerConfig,
    total_steps: int,
    *,
    seed: int = 0,
    accumulation: int = 1,
    unused: Params | None = None,
) -> Callable[[TrainState, Params, Any], tuple[TrainState, Metrics]]:
    """Returns `step(state, frozen, batch) -> (state, metrics)`, a pure function.

    Metrics are float32 scalars: the objective's, `loss`, `grad_norm` (of all trainable parameters,
    before clipping), `learning_rate`, and `is_skipped`: 1 if loss or gradient was not finite, and
    only the step number changed. Randomness is a function of seed and step alone. Where a batch has
    `MISSING` rows, nothing changes, not even the step number, and the metric of that name is 1.

    Args:
        accumulation: chunks that a batch is computed in; see `gradients`.
        unused: shapes of frozen parameters that the loss does not use and `frozen` lacks.
    """
    optimizer = make_optimizer(config, total_steps, objective.embeddings)
    schedule = learning_rate(config, total_steps)

    def step(state: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, Metrics]:
        batch = dict(batch)
        has_missing = MISSING in batch
        is_missing = jnp.any(batch.pop(MISSING, False))
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        frozen = with_zeros(frozen, unused or {})
        loss, metrics, grads = gradients(
            objective, state.params, frozen, batch, rng, chunks=accumulation
        )
        statistics = metrics.pop(STATISTICS, {})
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = objective.constrain(optax.apply_updates(state.params, updates))
        if statistics:
            params = objective.refresh(params, statistics, jax.random.fold_in(rng, 1))
        ema = state.ema and optax.incremental_update(params, state.ema, 1 - config.ema_decay)
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        old, new = (state.params, state.opt_state, state.ema), (params, opt_state, ema)
        is_kept = is_finite & ~is_missing
        kept = jax.tree.map(lambda n, o: jnp.where(is_kept, n, o), new, old)
        is_skipped = ~is_finite & ~is_missing
        metrics = metrics | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": schedule(state.step - state.skipped),
            "is_skipped": is_skipped.astype(jnp.float32),
        }
        if has_missing:
            metrics[MISSING] = is_missing.astype(jnp.float32)
        skipped = state.skipped + is_skipped.astype(jnp.int32)
        number = state.step + (~is_missing).astype(jnp.int32)
        return TrainState(number, *kept, skipped), metrics

    return step


def gradients(
    objective: Objective,
    params: Params,
    frozen: Params,
    batch: Any,
    rng: jax.Array,
    *,
    chunks: int,
) -> tuple[jax.Array, Metrics, Params]:
    """Returns (loss, metrics, gradient of `params`) of a batch, exactly, in one or more chunks.

    In chunks, all features are computed first; then the loss between rows and its gradient with
    respect to them; then, chunk by chunk, the gradient of the parameters against those (GradCache,
    arXiv 2101.06983). The outputs of frozen models are kept from the first pass to the second.
    A chunk has every `chunks`-th row, so that rows stay on their devices.
    """
    if chunks == 1:

        def loss_of(params):
            return objective.loss(merge(params, frozen), batch, rng)

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, metrics, grads

    if type(objective).loss is not Objective.loss:
        raise UserError(
            f"expected an objective with encode and compare to take in chunks, got "
            f"{type(objective).__name__}, which has a loss of its own: set accumulation to 1"
        )
    return _chunked_gradients(objective, params, frozen, batch, jax.random.split(rng, chunks))


def _chunked_gradients(objective, params, frozen, batch, rngs):
    """`gradients` in as many chunks as there are keys."""
    chunks = len(rngs)

    def encode_features(chunk):
        batch, rng = chunk
        prepared = objective.prepare(merge(params, frozen), batch)
        encoded = objective.encode(merge(params, frozen), prepared, rng)
        return prepared, encoded.features, encoded.rows, encoded.weight

    prepared, features, rows, weights = jax.lax.map(encode_features, (_split(batch, chunks), rngs))
    whole, weight = _join(prepared) | _join(rows), jnp.sum(weights)

    def between_rows(params, features):
        return objective.compare(merge(params, frozen), features, whole)

    between, (grads, cotangents) = jax.value_and_grad(between_rows, (0, 1), has_aux=True)(
        params, _join(features)
    )
    share = 1 / jnp.where(weight > 0, weight, 1)

    def add_chunk(grads, chunk):
        prepared, cotangents, rng = chunk

        def encode(params):
            encoded = objective.encode(merge(params, frozen), prepared, rng)
            return (encoded.features, encoded.loss_sum), encoded.metrics

        (_, loss_sum), vjp, metrics = jax.vjp(encode, params, has_aux=True)
        (chunk_grads,) = vjp((cotangents, share))
        return jax.tree.map(jnp.add, grads, chunk_grads), (loss_sum, metrics)

    chunked = prepared, _split(cotangents, chunks), rngs
    grads, sums = jax.lax.scan(add_chunk, grads, chunked)
    loss, metrics = averages(*jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), weight)
    return loss + between[0], join_metrics(metrics, between[1]), grads


def _split(tree, chunks):
    """[b, ...] -> [chunks, b / chunks, ...]."""

    def split(x):
        if len(x) % chunks:
            raise UserError(
                f"expected a batch size divisible by accumulation, got {len(x)} rows and {chunks}"
            )
        x = x.reshape(-1, chunks, *x.shape[1:])
        return jnp.swapaxes(x, 0, 1)

    return jax.tree.map(split, tree)


def _join(tree):
    """Undoes `_split`."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def jit_step(
    step: Callable, mesh: jax.sharding.Mesh, state: Any, frozen: Any, rules: Rules = ()
) -> Callable:
    """Compiles a step for a mesh: state and frozen parameters sharded, the old state donated.

    Args:
        rules: the objective's `sharding`.
    """
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placement = shardings(state, mesh, rules)
    return jax.jit(
        step,
        in_shardings=(placement, shardings(frozen, mesh, rules), batch_sharding(mesh)),
        out_shardings=(placement, replicated),
        donate_argnums=0,
    )
