"""The training loop: resume, then in a fixed order evaluate, save, fetch, step, log."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from toklip_jax.costs.flops import count_flops
from toklip_jax.data.health import BadSamples
from toklip_jax.parallel.hosts import call_on_main
from toklip_jax.parallel.sharding import put_batch, shardings
from toklip_jax.training.checkpoints import Checkpoints
from toklip_jax.training.config_change import check_same
from toklip_jax.training.contents import describe_arrays
from toklip_jax.training.faults import Preempted, Preemption, SkippedSteps
from toklip_jax.training.identity import Identity, expect_identity
from toklip_jax.training.logging import RunLog, has_log
from toklip_jax.training.objective import Objective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.ownership import claim_checkpoints
from toklip_jax.training.speed import Speed
from toklip_jax.training.state import (
    Params,
    TrainState,
    cast_frozen,
    merge,
    partition,
    place,
    shapes_of,
    split,
)
from toklip_jax.training.step import create_state, jit_step, make_step

Batches = Callable[[int], Iterator[Any]]  # start step -> batches from there on
Evaluate = Callable[[Params], dict[str, float]]  # all parameters -> metrics
HOST_FIELDS = ("keys", "skipped")  # of a batch: fields that stay on the host


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """The length of a stage's training, and how often it logs, saves and evaluates.

    Attributes:
        steps: updates in all.
        log_every: steps between metrics, which wait for the device.
        save_every: steps between checkpoints; the last step is always saved.
        keep: how many of the newest checkpoints are kept.
        keep_every: checkpoints at multiples of this many steps are kept for good; 0 for none.
        best: name of an evaluation's metric; the checkpoint where it was highest is kept too.
        evaluate_every: steps between evaluations, each followed by a save; 0 for none.
        accumulation: chunks a batch is taken in, exactly (`step.gradients`), to save memory.
        max_skipped_in_a_row: steps whose loss or gradient is not finite change nothing; after this
            many in a row the run stops.
        max_bad_share: the largest share of unreadable samples; above it the run stops.
        checkpoints: where these are kept, unless in the run's directory: another disk, or a bucket
            (`gs://`, `s3://`) that all hosts reach.
    """

    steps: int
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2
    keep_every: int = 0
    best: str = ""
    evaluate_every: int = 0
    accumulation: int = 1
    max_skipped_in_a_row: int = 10
    max_bad_share: float = 0.01
    checkpoints: str = ""

    def __post_init__(self):
        positive = ("steps", "log_every", "save_every", "keep", "accumulation")
        positive += ("max_skipped_in_a_row",)
        if min(getattr(self, name) for name in positive) < 1:
            raise ValueError(f"expected {', '.join(positive)} of at least 1, got {self}")
        if min(self.keep_every, self.evaluate_every) < 0 or not 0 <= self.max_bad_share <= 1:
            raise ValueError(
                f"expected keep_every and evaluate_every of at least 0 and max_bad_share in "
                f"[0, 1], got {self}"
            )
        if self.best and not self.evaluate_every:
            raise ValueError(f"expected evaluate_every with best={self.best!r}, got 0")


@dataclasses.dataclass(frozen=True)
class LoopContext:
    """Settings of a loop besides the objective, the data and the optimizer.

    Attributes:
        title: the title of its lines and progress bar.
        evaluate: the function that `evaluate_every` calls, with the running mean where one is kept.
        description: the run's config, saved with every checkpoint; one of another is refused.
        allow_change: continue a checkpoint of another config, after printing the differences.
        profile: steps [first, last) of which a profile is written.
        wandb: arguments of `wandb.init`; empty for none.
        unused: paths of frozen parameters that no step uses, such as those of a model whose outputs
            are cached; they are put on the devices only for evaluations.
        identity: saved with every checkpoint; one of another run, or trained from other files, is
            refused.
        reached: steps that weights of an earlier end have been trained for.
        accept: called by all hosts once a step was made, before anything of it is kept.
    """

    title: str = "train"
    evaluate: Evaluate | None = None
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allow_change: bool = False
    profile: tuple[int, int] | None = None
    wandb: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unused: Collection[str] = ()
    identity: Identity = dataclasses.field(default_factory=Identity)
    reached: int = 0
    accept: Callable[[], None] = lambda: None


def train(
    objective: Objective,
    params: Params,
    batches: Batches,
    *,
    optimizer: OptimizerConfig,
    config: LoopConfig,
    mesh: jax.sharding.Mesh,
    directory: str | pathlib.Path,
    seed: int = 0,
    context: LoopContext | None = None,
) -> Params:
    """Trains until `config.steps`, from the newest checkpoint in `directory` if there is one.

    Args:
        params: all parameters at the start; those that are trained are donated to the state.
        batches: their order is a function of the step alone, so that a resumed run sees what an
            uninterrupted one would.

    Returns:
        All parameters at the end, with the running mean in place of the trained ones if it is kept.

    Raises:
        Preempted: told to stop by SIGTERM; all is saved.
        FloatingPointError, ValueError: too many steps not finite, too many bad samples.
    """
    loop = _Loop(
        objective,
        optimizer=optimizer,
        config=config,
        mesh=mesh,
        directory=pathlib.Path(directory),
        seed=seed,
        context=context or LoopContext(),
    )
    return loop.run(params, batches)


class _Loop:
    def __init__(self, objective, *, optimizer, config, mesh, directory, seed, context):
        self.objective, self.optimizer, self.config = objective, optimizer, config
        self.mesh, self.directory, self.seed = mesh, directory, seed
        self.context = context

    def run(self, params, batches) -> Params:
        config, context, rules = self.config, self.context, self.objective.sharding
        trainable, untouched = partition(params, self.objective.trainable)
        state = self._create(place(trainable, self.mesh, rules))
        self.unused, frozen = split(untouched, context.unused)
        frozen = self._place_frozen(frozen)
        self.identity = dataclasses.replace(context.identity, frozen=describe_arrays(frozen))
        self.step = jit_step(self._make_step(self.objective), self.mesh, state, frozen, rules)
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._checkpoints(self._kept_in() / "checkpoints") as checkpoints:
            state = self._resume(state, checkpoints)
            start = int(state.step)
            if start == config.steps:
                context.accept()
            else:
                stream = batches(start)
                bad = BadSamples(config.max_bad_share)
                try:
                    left_out = getattr(batches, "problems", [])
                    bad.leave_out(left_out, getattr(batches, "num_samples", 0))
                    state = self._train(state, frozen, stream, bad, start, checkpoints)
                finally:
                    _close(stream)
        return merge(_evaluated(state), untouched)

    def _kept_in(self) -> epath.Path:
        """Where the checkpoints are: in the run's directory, or in another one that is its own."""
        if not self.config.checkpoints:
            return epath.Path(self.directory)
        directory = epath.Path(self.config.checkpoints) / self.context.title
        run_id, is_known = self.identity.run, has_log(self.directory)
        if run_id:
            workdir = self.directory.parent
            call_on_main(lambda: claim_checkpoints(directory, run_id, workdir, is_known))
        return directory

    def _resume(self, state, checkpoints) -> TrainState:
        """Returns the newest saved state, or the new one; refuses what this run can't continue."""
        context, newest = self.context, checkpoints.latest_step
        if newest is not None:
            state = checkpoints.restore(state)
            newest = int(state.step)
            where = f"checkpoint {newest} in {checkpoints.directory}"
            saved = checkpoints.describe(newest)
            check_same(where, saved, context.description, context.allow_change)
            saved = checkpoints.identify(newest)
            expect_identity(where, saved, self.identity, context.allow_change)
        if not context.reached <= (newest or 0) <= self.config.steps:
            raise ValueError(
                f"expected a checkpoint of step {context.reached} to {self.config.steps}, the "
                f"loop.steps of {context.title}, to continue from, found "
                f"{'none' if newest is None else newest}: set loop.steps to what has been trained "
                f"or more, or pass --restart"
            )
        return state

    def _create(self, trainable) -> TrainState:
        def create(params):
            return create_state(params, self.optimizer, self.config.steps)

        shapes = jax.eval_shape(create, trainable)
        placement = shardings(shapes, self.mesh, self.objective.sharding)
        return jax.jit(create, out_shardings=placement)(trainable)

    def _place_frozen(self, params) -> Params:
        objective = self.objective
        cast = cast_frozen(params, objective.compute, objective.full_precision)
        return place(cast, self.mesh, objective.sharding)

    def _make_step(self, objective, accumulation: int | None = None):
        return make_step(
            objective,
            self.optimizer,
            self.config.steps,
            seed=self.seed,
            accumulation=accumulation or self.config.accumulation,
            unused=shapes_of(self.unused),
        )

    def _checkpoints(self, directory) -> Checkpoints:
        config = self.config
        return Checkpoints(
            directory,
            keep=config.keep,
            keep_every=config.keep_every,
            best=config.best,
            description=self.context.description,
            identity=dataclasses.asdict(self.identity),
        )

    def _train(self, state, frozen, stream, bad, start, checkpoints) -> TrainState:
        config, context, total = self.config, self.context, self.config.steps
        skipped = SkippedSteps(config.max_skipped_in_a_row, self.directory)
        profile = _Profile(context.profile, self.directory / "profile")
        log = RunLog(self.directory, context.title, total, start=start, wandb=context.wandb)
        speed = metrics = None
        with log, Preemption() as preemption, profile:
            for done in range(start + 1, total + 1):
                fetched = time.perf_counter()
                batch, keys = self._fetch(stream, bad)
                fetched = time.perf_counter() - fetched
                # While the previous step is running, waiting for a batch costs nothing.
                is_free = metrics is None or metrics["loss"].is_ready()
                profile.at(done - 1)
                with jax.set_mesh(self.mesh):
                    state, metrics = self.step(state, frozen, batch)
                if done == start + 1:
                    context.accept()  # what is wrong with sizes or data has been met by now
                # The first step includes compiling and says nothing about speed.
                if speed and is_free:
                    speed.waited(fetched)
                log.advance()
                try:
                    skipped.add(done, metrics["is_skipped"], keys)
                    if done == total:
                        skipped.finish()
                except FloatingPointError:
                    checkpoints.save(done, state)
                    raise
                figures = self._evaluate(done, state, frozen)
                if figures or done == total or done % config.log_every == 0:
                    values = _to_floats(metrics) | {"bad_samples": bad.counts.total()} | figures
                    log.write(done, values, speed and speed.report(done))
                if speed is None:
                    jax.block_until_ready(metrics)
                    flops = self._flops(state, frozen, batch)
                    speed = Speed(len(batch_leaf(batch)), total, done, flops)
                if figures or done == total or done % config.save_every == 0:
                    checkpoints.save(done, state, figures)
                if done < total and preemption.is_reached():
                    checkpoints.save(done, state)
                    checkpoints.wait()
                    raise Preempted(f"saved step {done} of {total} and stopped")
        return state

    def _fetch(self, stream, bad):
        batch = dict(next(stream))
        host = {name: batch.pop(name) for name in HOST_FIELDS if name in batch}
        keys = host.get("keys", [])
        bad.add(len(batch_leaf(batch)), host.get("skipped", []))
        return put_batch(batch, self.mesh), keys

    def _evaluate(self, done, state, frozen) -> dict[str, float]:
        every = self.config.evaluate_every
        if not every or (done % every and done != self.config.steps):
            return {}
        everything = merge(self._place_frozen(self.unused), frozen)
        figures = self.context.evaluate(merge(_evaluated(state), everything))
        if self.config.best and self.config.best not in figures:
            raise ValueError(f"expected loop.best of {sorted(figures)}, got {self.config.best!r}")
        return figures

    def _flops(self, state, frozen, batch) -> float:
        compute = dataclasses.replace(self.objective.compute, remat="none")
        plain = dataclasses.replace(self.objective, compute=compute)
        abstract = shapes_of((state, frozen, batch))
        with jax.set_mesh(self.mesh):
            return float(count_flops(self._make_step(plain, accumulation=1), *abstract))


class _Profile:
    """Starts and stops jax's profiler around the steps asked for, on host 0."""

    def __init__(self, steps, directory):
        self._steps, self._directory, self._is_on = steps, directory, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._is_on:
            jax.profiler.stop_trace()

    def at(self, step):
        if self._steps is None or jax.process_index():
            return
        start, stop = self._steps
        if step == start and not self._is_on:
            jax.profiler.start_trace(str(self._directory))
            self._is_on = True
        elif step >= stop and self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False


def batch_leaf(batch: Mapping[str, Any]) -> Any:
    """Returns one array of a batch; all have the same length."""
    return jax.tree.leaves(batch)[0]


def _evaluated(state: TrainState) -> Params:
    """Returns the parameters that are evaluated and kept: the running mean if there is one."""
    return state.params if state.ema is None else state.ema


def _close(stream):
    if hasattr(stream, "close"):
        stream.close()


def _to_floats(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in metrics.items()}
