"""The training loop: resume, then in a fixed order evaluate, save, fetch, step, log."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from toklip_jax.checkpoint import Checkpoints
from toklip_jax.sharding import put_batch, shardings
from toklip_jax.training.logging import RunLog
from toklip_jax.training.objectives import Objective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import Params, TrainState, merge, partition
from toklip_jax.training.step import create_state, jit_step, make_step

Batches = Callable[[int], Iterator[Any]]  # start step -> batches from there on


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, and how often what is done.

    Attributes:
        steps: updates in all.
        log_every: steps between metrics; also how often the device is waited for.
        save_every: steps between checkpoints; the last step is always saved.
        keep: checkpoints that stay.
    """

    steps: int
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2

    def __post_init__(self):
        if min(self.steps, self.log_every, self.save_every, self.keep) < 1:
            raise ValueError(
                f"expected steps, log_every, save_every and keep of at least 1, got {self}"
            )


def train(
    objective: Objective,
    params: Params,
    batches: Batches,
    optimizer: OptimizerConfig,
    config: LoopConfig,
    mesh: jax.sharding.Mesh,
    directory: str | pathlib.Path,
    seed: int = 0,
    title: str = "train",
) -> Params:
    """Trains until `config.steps`, from the newest checkpoint in `directory` if there is one.

    Args:
        params: all parameters at the start; those that train are given up to the state.
        batches: the order is a function of the step alone, so that a resumed run sees what an
            unbroken one would.

    Returns:
        All parameters at the end, the running mean in place of the trained ones where it is kept.
    """
    directory = pathlib.Path(directory)
    trainable, frozen = partition(params, objective.trainable)
    state = _create(trainable, optimizer, config.steps, mesh)
    frozen = jax.device_put(frozen, shardings(frozen, mesh))
    step = jit_step(make_step(objective, optimizer, config.steps, seed), mesh, state, frozen)
    with Checkpoints(directory / "checkpoints", config.keep) as checkpoints:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        start = int(state.step)
        if start < config.steps:
            with RunLog(directory, title, config.steps, start) as log:
                state = _run(
                    step, state, frozen, batches(start), start, config, mesh, checkpoints, log
                )
    return merge(state.params if state.ema is None else state.ema, frozen)


def _create(trainable: Params, optimizer: OptimizerConfig, steps: int, mesh) -> TrainState:
    def create(params):
        return create_state(params, optimizer, steps)

    lies = shardings(jax.eval_shape(create, trainable), mesh)
    return jax.jit(create, out_shardings=lies)(trainable)


def _run(step, state, frozen, batches, start, config, mesh, checkpoints, log) -> TrainState:
    for done in range(start, config.steps):
        batch = put_batch(next(batches), mesh)
        state, metrics = step(state, frozen, batch)
        log.advance()
        last = done + 1 == config.steps
        if last or (done + 1) % config.log_every == 0:
            log.write(done + 1, _to_host(metrics))
        if last or (done + 1) % config.save_every == 0:
            checkpoints.save(done + 1, state)
    return state


def _to_host(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    values = {name: float(np.asarray(value)) for name, value in metrics.items()}
    if bad := sorted(name for name, value in values.items() if not np.isfinite(value)):
        raise FloatingPointError(f"expected finite metrics, got a non-finite {', '.join(bad)}")
    return values
