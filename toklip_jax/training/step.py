"""The training step: one jitted function over a mesh, for every objective."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from toklip_jax.sharding import batch_sharding, shardings
from toklip_jax.training.objectives import Objective
from toklip_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from toklip_jax.training.state import Params, TrainState, merge

Metrics = dict[str, jax.Array]


def create_state(params: Params, config: OptimizerConfig, total_steps: int) -> TrainState:
    """Returns the state before the first step. Trace it to have it born sharded."""
    opt_state = make_optimizer(config, total_steps).init(params)
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, ema)


def make_step(
    objective: Objective, config: OptimizerConfig, total_steps: int, seed: int = 0
) -> Callable[[TrainState, Params, Any], tuple[TrainState, Metrics]]:
    """Returns `step(state, frozen, batch) -> (state, metrics)`, a pure function.

    Metrics are float32 scalars: the objective's, `loss`, `grad_norm` (of all trainable parameters,
    before clipping) and `learning_rate`. Randomness is a function of seed and step alone.
    """
    optimizer, schedule = make_optimizer(config, total_steps), learning_rate(config, total_steps)

    def step(state: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(params):
            return objective.loss(merge(params, frozen), batch, rng)

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = objective.constrain(optax.apply_updates(state.params, updates))
        ema = state.ema and optax.incremental_update(params, state.ema, 1 - config.ema_decay)
        metrics = metrics | {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return step


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
