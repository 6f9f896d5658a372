"""The step to plan: its function, and the shapes of what it takes. Nothing is read or run."""

import dataclasses
from typing import Any

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.costs.flops import count_flops
from toklip_jax.experiment import Experiment
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.tasks.registry import task_of
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import cast_frozen, merge, partition, split
from toklip_jax.training.step import create_state, make_step


@dataclasses.dataclass(frozen=True)
class Step:
    """A step to compile: its function, the shapes of its arguments, and how they are sharded."""

    objective: ModelObjective
    optimizer: OptimizerConfig
    steps: int
    seed: int
    accumulation: int
    state: Any
    frozen: Any
    batch: dict[str, jax.ShapeDtypeStruct]
    unused: Any

    @property
    def arguments(self):
        return self.state, self.frozen, self.batch

    def function(self, objective: ModelObjective | None = None, accumulation: int = 0):
        return make_step(
            objective or self.objective,
            self.optimizer,
            self.steps,
            seed=self.seed,
            accumulation=accumulation or self.accumulation,
            unused=self.unused,
        )

    def model_flops(self) -> int:
        """Returns the FLOPs of the whole batch by the mathematics: nothing computed twice."""
        plain = self.function(self.objective.without_recomputation(), accumulation=1)
        return count_flops(plain, *self.arguments)


def find_stage(experiment: Experiment, name: str) -> StageConfig:
    """Returns the stage of a name, the config's last where that is "".

    Raises:
        ValueError: there is none.
    """
    names = [stage.name for stage in experiment.stages]
    if not names:
        raise UserError("expected a config with stages to plan, got one without")
    return experiment.sections[check_name("stage", name or names[-1], names)]


def build_step(
    experiment: Experiment,
    stage: StageConfig,
    *,
    ways: int = 1,
    batch_size: int = 0,
    accumulation: int = 0,
    objective: ModelObjective | None = None,
) -> Step:
    """Returns the step of a stage.

    Args:
        ways: how many devices the batch is split over.
        batch_size: the batch of all devices together, the stage's unless given.
        accumulation: chunks of the batch, the stage's unless given.
        objective: the task's outline of the stage unless given.

    Raises:
        ValueError: devices and chunks don't divide the batch, or the config tells no sizes.
    """
    batch_size = batch_size or stage.batch_size
    accumulation = accumulation or stage.loop.accumulation
    ways *= accumulation
    if batch_size % ways or batch_size < 1:
        raise UserError(
            f"expected a batch divisible by {ways} (devices, chunks), got {batch_size}: set "
            f"{stage.name}.batch_size to a multiple of it"
        )
    task = task_of(stage.task)
    if objective is None:
        objective = task.outline(stage, experiment.sections, experiment.compute)
    state, frozen = _shapes(objective, stage.optimizer, stage.loop.steps)
    unused = {}
    if stage.cache:  # it need not exist: what it will hold is in the config
        features = experiment.encode.features
        batch = task.cache.batch(objective, features, batch_size)
        everything = merge(state.params, frozen)
        unused, frozen = split(frozen, task.cache.unused(objective, everything, features))
    else:
        size, arguments = image_size(experiment, stage), task.batch_arguments(stage)
        batch = task.batch(objective, size, batch_size, **arguments)
    return Step(
        objective=objective,
        optimizer=stage.optimizer,
        steps=stage.loop.steps,
        seed=experiment.seed,
        accumulation=accumulation,
        state=state,
        frozen=frozen,
        batch=batch,
        unused=unused,
    )


def image_size(experiment: Experiment, stage: StageConfig) -> tuple[int, ...] | None:
    """Returns (height, width) of a stage's images, or None where its model's size decides."""
    # Arrays keep their size: the reader resizes encoded images only.
    size = stage.source.image_size or experiment.reading.image_size
    if not size:
        return None
    return (size, size) if isinstance(size, int) else tuple(size)


def _shapes(objective, optimizer, steps):
    """Returns the shapes of the state and of the frozen parameters, as the loop makes them."""
    params = jax.eval_shape(objective.init, jax.random.key(0))
    trainable, frozen = partition(params, objective.trainable)
    frozen = jax.eval_shape(
        lambda p: cast_frozen(p, objective.compute, objective.full_precision), frozen
    )
    return jax.eval_shape(lambda p: create_state(p, optimizer, steps), trainable), frozen
