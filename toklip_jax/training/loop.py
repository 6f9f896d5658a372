"""The training loop: resume, then in a fixed order evaluate, save, fetch, step, log."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from toklip_jax.core.errors import Preempted, UserError
from toklip_jax.costs.flops import count_flops
from toklip_jax.data.health import BadSamples
from toklip_jax.parallel.hosts import all_arrive, broadcast_from_main, call_on_main
from toklip_jax.parallel.preemption import is_told, stopping_at_once, stopping_when_asked
from toklip_jax.parallel.sharding import put_batch, shardings
from toklip_jax.training.checkpoints import Checkpoints
from toklip_jax.training.config_change import check_same
from toklip_jax.training.contents import describe_arrays
from toklip_jax.training.faults import SkippedSteps
from toklip_jax.training.host_batches import HostBatches
from toklip_jax.training.identity import Identity, expect_identity
from toklip_jax.training.logging import RunLog, has_log
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.objective import Objective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.ownership import checkpoints_place, claim_checkpoints
from toklip_jax.training.profile import Profile
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
LEAVING_SECONDS = 30.0  # that hosts wait for one another before they save and end early

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoopContext:
    """Settings of a loop besides the objective, the data and the optimizer.

    Attributes:
        title: the stage's name.
        place: the stage's place in the run, such as "stage 2 of 3"; "" for a stage alone.
        later_flops: FLOPs of the stages that follow, or None where nothing tells them; it is called
            once, after a minute.
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
    place: str = ""
    later_flops: Callable[[], float | None] = lambda: 0.0
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

    Whatever ends it early, the steps that are done are saved first.

    Raises:
        Preempted: told to stop by SIGTERM.
        FloatingPointError, ValueError: too many steps not finite, too many bad samples.
        TryAgain: worker processes were lost again and again.
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
        self.context, self.step_flops = context, 0.0
        self.later_flops = functools.cache(context.later_flops)

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
            is_over = start == config.steps
            if is_over:
                context.accept()
            if not is_over or config.is_evaluated(start):  # it may have ended while it evaluated
                stream = iter(()) if is_over else batches(start)
                bad = BadSamples(config.max_bad_share)
                try:
                    if not is_over:  # what was found when it was opened
                        left_out = getattr(batches, "problems", [])
                        bad.leave_out(left_out, getattr(batches, "num_samples", 0))
                    state = self._train(state, frozen, stream, bad, start, checkpoints)
                finally:
                    _close(stream)
        return merge(_evaluated(state), untouched)

    def _kept_in(self) -> epath.Path:
        """Returns the checkpoints' directory: the run's, or another one that it has claimed."""
        if not self.config.checkpoints:
            return epath.Path(self.directory)
        directory = checkpoints_place(self.config.checkpoints) / self.context.title
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
            raise UserError(
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
        self.skipped = SkippedSteps(config.max_skipped_in_a_row, self.directory)
        self.profile = Profile(context.profile, self.directory / "profile")
        self.log = RunLog(
            self.directory,
            context.title,
            total,
            start=start,
            wandb=context.wandb,
            heading=f"{context.place}, {context.title}" if context.place else context.title,
            run_seconds_left=self._run_seconds_left,
        )
        self.speed, self.checkpoints = Speed(total), checkpoints
        self.last = start, state, None  # steps done, their state, the last one's metrics
        self.batches = HostBatches(lambda: self._read(stream, bad))
        with self.log, stopping_when_asked(), self.profile:
            try:
                self._evaluate_what_was_missed(start, frozen)
                for _ in range(start, total):
                    self._advance(frozen, bad)
            except BaseException as error:
                self._save_before_leaving(error)
                raise
        return self.last[1]

    def _advance(self, frozen, bad) -> None:
        """Takes a step, and does all that is due after it."""
        config, (done, state, metrics) = self.config, self.last
        is_first = metrics is None
        fetched = time.perf_counter()
        batch, keys = self._fetch()
        # While the previous step is running, waiting for a batch costs nothing.
        if is_first or metrics["loss"].is_ready():
            self.speed.waited(time.perf_counter() - fetched)
        with self.speed.paused():
            self.profile.at(done)
        with jax.set_mesh(self.mesh):
            state, metrics = self.step(state, frozen, batch)
        done += 1
        self.last = done, state, metrics
        self.batches.check(metrics, must_know=self.config.is_recorded(done))
        if is_first:
            self.context.accept()  # what is wrong with sizes or data has been met by now
        self.log.advance()
        self.skipped.add(done, metrics["is_skipped"], keys)
        if done == config.steps:
            self.skipped.finish()
        figures = self._evaluate(frozen)
        if figures or done == config.steps or done % config.log_every == 0:
            values = _to_floats(metrics) | {"bad_samples": bad.counts.total()} | figures
            self.log.write(done, values, self.speed.report(done))
        if not self.speed.has_begun:
            jax.block_until_ready(metrics)
            self.step_flops = self._flops(state, frozen, batch)
            self.speed.begin(done, len(batch_leaf(batch)), self.step_flops)
        if figures or done == config.steps or done % config.save_every == 0:
            self._save(figures)
        if done < config.steps and is_told():
            raise Preempted(f"saved step {done} of {config.steps} and stopped")

    def _read(self, stream, bad):
        batch = dict(next(stream))
        skipped = batch.pop("skipped", [])
        bad.add(len(batch_leaf(batch)), skipped)
        return batch

    def _fetch(self):
        batch = self.batches.fetch()
        keys = batch.pop("keys", [])
        return put_batch(batch, self.mesh), keys

    def _evaluate(self, frozen) -> dict[str, float]:
        """Returns the figures of the state, where an evaluation is due."""
        (done, state, _), best = self.last, self.config.best
        if not self.config.is_evaluated(done):
            return {}
        if not best:  # else the checkpoint holds the figure, and what raises saves without
            self._save({})
        with self._not_training(), stopping_at_once():
            everything = merge(self._place_frozen(self.unused), frozen)
            figures = self.context.evaluate(merge(_evaluated(state), everything))
        if best and best not in figures:
            raise UserError(f"expected loop.best of {sorted(figures)}, got {best!r}")
        return figures

    def _evaluate_what_was_missed(self, start, frozen) -> None:
        """Evaluates the step resumed from, where the run ended within its evaluation."""
        is_due = start and self.config.is_evaluated(start)
        if is_due and not broadcast_from_main(self.log.has(start)):
            self.log.write(start, self._evaluate(frozen))

    def _save(self, figures) -> None:
        done, state, _ = self.last
        with self._not_training():
            self.checkpoints.save(done, state, figures)

    @contextlib.contextmanager
    def _not_training(self) -> Iterator[None]:
        """Keeps the time within it out of the steps' speed."""
        jax.block_until_ready(self.last[2])
        with self.speed.paused():
            yield

    def _save_before_leaving(self, error) -> None:
        """Saves what is done when the loop ends early, whatever the reason."""
        done, state, metrics = self.last
        if metrics is None:
            return  # no step was taken: nothing to lose
        if not all_arrive(f"leaving after step {done}", LEAVING_SECONDS):
            logger.warning("step %s is not saved: not all hosts have ended at it", done)
            return
        try:
            done = int(state.step)  # fewer than were taken where a host could not read
            self.checkpoints.save(done, state)
            self.checkpoints.wait()
        except Exception as failure:
            reason = str(failure).strip().splitlines() or [type(failure).__name__]
            logger.warning(
                "step %s could not be saved (%s) after: %s", done, reason[0][:200], error
            )

    def _run_seconds_left(self, speed) -> float | None:
        """Returns the seconds that are left of all stages, as later FLOPs go at this stage's rate.

        None where no stage follows, or its FLOPs can't be told.
        """
        later = self.later_flops()
        if not later or not self.step_flops:
            return None
        return speed["seconds_left"] + later / self.step_flops * speed["seconds_per_step"]

    def _flops(self, state, frozen, batch) -> float:
        compute = dataclasses.replace(self.objective.compute, remat="none")
        plain = dataclasses.replace(self.objective, compute=compute)
        abstract = shapes_of((state, frozen, batch))
        with jax.set_mesh(self.mesh):
            return float(count_flops(self._make_step(plain, accumulation=1), *abstract))


def batch_leaf(batch: Mapping[str, Any]) -> Any:
    """Returns one array of a batch; all have the same length."""
    return next(leaf for leaf in jax.tree.leaves(batch) if hasattr(leaf, "shape"))


def _evaluated(state: TrainState) -> Params:
    """Returns the parameters that are evaluated and kept: the running mean if there is one."""
    return state.params if state.ema is None else state.ema


def _close(stream):
    if hasattr(stream, "close"):
        stream.close()


def _to_floats(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in metrics.items()}
