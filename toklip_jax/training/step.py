"""The training step: one jitted function over a mesh, for every objective."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from toklip_jax.sharding import batch_sharding, shardings
from toklip_jax.training.objectives import Objective
from toklip_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from toklip_jax.training.state import Params, TrainState, fill, merge

Metrics = dict[str, jax.Array]


def create_state(params: Params, config: OptimizerConfig, total_steps: int) -> TrainState:
    """Returns the state before the first step. Trace it to have it born sharded."""
    opt_state = make_optimizer(config, total_steps).init(params)
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, opt_state, ema, zero)


def make_step(
    objective: Objective,
    config: OptimizerConfig,
    total_steps: int,
    seed: int = 0,
    accumulation: int = 1,
    idle: Params | None = None,
) -> Callable[[TrainState, Params, Any], tuple[TrainState, Metrics]]:
    """Returns `step(state, frozen, batch) -> (state, metrics)`, a pure function.

    Metrics are float32 scalars: the objective's, `loss`, `grad_norm` (of all trainable parameters,
    before clipping), `learning_rate`, and `is_skipped`: 1 where loss or gradient were not finite,
    and only the step number moved. Randomness is a function of seed and step alone.

    Args:
        accumulation: chunks a batch is taken in; see `gradients`.
        idle: shapes of frozen parameters that the loss has no use for; `frozen` comes without.
    """
    optimizer, schedule = make_optimizer(config, total_steps), learning_rate(config, total_steps)

    def step(state: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        frozen = fill(frozen, idle or {})
        loss, metrics, grads = gradients(objective, state.params, frozen, batch, rng, accumulation)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = objective.constrain(optax.apply_updates(state.params, updates))
        ema = state.ema and optax.incremental_update(params, state.ema, 1 - config.ema_decay)
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        old, new = (state.params, state.opt_state, state.ema), (params, opt_state, ema)
        kept = jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)
        metrics = metrics | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": schedule(state.step - state.skipped),
            "is_skipped": 1 - is_finite.astype(jnp.float32),
        }
        skipped = state.skipped + (~is_finite).astype(jnp.int32)
        return TrainState(state.step + 1, *kept, skipped), metrics

    return step


def gradients(
    objective: Objective, params: Params, frozen: Params, batch: Any, rng: jax.Array, chunks: int
) -> tuple[jax.Array, Metrics, Params]:
    """Returns (loss, metrics, gradient of `params`) of a batch, exactly, in one or more chunks.

    In chunks, all features are computed first; then the loss between rows and its gradient with
    respect to them; then, chunk by chunk, the gradient of the parameters against those (GradCache,
    arXiv 2101.06983). What frozen parameters compute is kept from the first pass to the second.
    A chunk has every `chunks`-th row, so that rows stay on their devices.
    """
    if chunks == 1:

        def loss_of(params):
            return objective.loss(merge(params, frozen), batch, rng)

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, metrics, grads

    def first(chunk):
        batch, rng = chunk
        prepared = objective.prepare(merge(params, frozen), batch)
        return prepared, objective.encode(merge(params, frozen), prepared, rng).features

    rngs = jax.random.split(rng, chunks)
    prepared, features = jax.lax.map(first, (_split(batch, chunks), rngs))
    whole = _join(prepared)

    def between_rows(params, features):
        return objective.compare(merge(params, frozen), features, whole)

    between, (grads, cotangents) = jax.value_and_grad(between_rows, (0, 1), has_aux=True)(
        params, _join(features)
    )

    def second(carry, chunk):
        prepared, cotangents, rng = chunk

        def encode(params):
            encoded = objective.encode(merge(params, frozen), prepared, rng)
            return (encoded.features, encoded.loss), encoded.metrics

        (_, loss), pull, metrics = jax.vjp(encode, params, has_aux=True)
        (grads,) = pull((cotangents, jnp.float32(1 / chunks)))
        return jax.tree.map(jnp.add, carry, grads), (loss, metrics)

    chunked = prepared, _split(cotangents, chunks), rngs
    grads, (within, metrics) = jax.lax.scan(second, grads, chunked)
    return between[0] + jnp.mean(within), jax.tree.map(jnp.mean, metrics) | between[1], grads


def _split(tree, chunks):
    """[b, ...] -> [chunks, b / chunks, ...]."""

    def split(x):
        if len(x) % chunks:
            raise ValueError(
                f"expected a batch size divisible by accumulation, got {len(x)} rows and {chunks}"
            )
        x = x.reshape(-1, chunks, *x.shape[1:])
        return jnp.swapaxes(x, 0, 1)

    return jax.tree.map(split, tree)


def _join(tree):
    """Undoes `_split`."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def jit_step(step: Callable, mesh: jax.sharding.Mesh, state: Any, frozen: Any) -> Callable:
    """Compiles a step for a mesh: state and frozen parameters sharded, the old state given up."""
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    lies = shardings(state, mesh)
    return jax.jit(
        step,
        in_shardings=(lies, shardings(frozen, mesh), batch_sharding(mesh)),
        out_shardings=(lies, replicated),
        donate_argnums=0,
    )
