"""Checkpoints of a training run: Orbax, asynchronous, atomic, restorable onto another mesh.

A directory may be local or a bucket's (`gs://`, `s3://`): Orbax and etils' paths open both.
"""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

_log = logging.getLogger(__name__)
BROKEN_PREFIX = "broken-"  # a checkpoint that can't be read is renamed to this and its step


class CheckpointMismatch(ValueError):
    """The checkpoint has another structure, shape or dtype than was asked for."""


class Checkpoints:
    """The checkpoints under one directory.

    A save that was interrupted leaves only a temporary folder, which the next save deletes.

    Args:
        keep: how many of the newest are kept.
        keep_every: those at multiples of this many steps are kept too; 0 for none.
        best: name of a metric; the checkpoint where it was highest is kept too.
        description: saved with every state, as json, such as the run's config.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep: int = 2,
        keep_every: int = 0,
        best: str = "",
        description: Mapping[str, Any] | None = None,
    ):
        policies = [preservation_policy.LatestN(keep)]
        if keep_every:
            policies.append(preservation_policy.EveryNSteps(keep_every))
        if best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        self._directory = absolute(directory)
        self._best, self._description = best, dict(description or {})
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step that is whole on disk, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving `state` while training continues; does nothing if the step is saved."""
        if step in self._manager.all_steps():
            return
        kept = {k: v for k, v in (metrics or {}).items() if k == self._best}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), description=ocp.args.JsonSave(self._description)
        )
        with self._explained():
            self._manager.save(step, args=args, metrics=kept or None)

    def restore(self, state: Any, step: int | None = None) -> Any:
        """Returns the state saved at `step`, the newest unless given.

        If the newest can't be read, it is renamed, the one before it is used, and a warning says
        so; if none can be read, all are left as they are.

        Args:
            state: its structure: arrays or `jax.ShapeDtypeStruct`s with the shardings wanted.

        Raises:
            ValueError: no checkpoint, or one of another structure, shape or dtype.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        if step is not None:
            return self._restore(abstract, step)
        broken, steps = {}, [] if self.latest_step is None else self._manager.all_steps()
        for step in sorted(steps, reverse=True):
            try:
                state = self._restore(abstract, step)
            except CheckpointMismatch:
                raise
            except Exception as error:
                broken[step] = str(error).strip().splitlines() or [type(error).__name__]
                continue
            if broken:
                self._set_aside(broken, step)
            return state
        reasons = "".join(f"; {step}: {lines[0][:200]}" for step, lines in broken.items())
        raise ValueError(
            f"expected a checkpoint in {self._directory}, found none that can be read{reasons}"
        )

    def describe(self, step: int) -> dict[str, Any]:
        """Returns the description saved with `step`."""
        args = ocp.args.Composite(description=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).description

    def wait(self) -> None:
        """Waits until the last save is on disk, and raises its error if it failed."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for the last save and closes the directory."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self):
        """Replaces the long error of a full disk by one sentence."""
        try:
            yield
        except Exception as error:
            if "No space left" not in str(error):
                raise
            raise OSError(
                f"no space left in {self._directory}: a checkpoint could not be written. What is "
                f"there is whole; make room, or keep fewer, and run the same command again"
            ) from error

    def _open(self):
        return ocp.CheckpointManager(
            self._directory,
            options=self._options,
            # Given by name, as a new manager reads no metadata otherwise.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "description": ocp.JsonCheckpointHandler(),
            },
        )

    def _restore(self, abstract, step):
        self._check(step, abstract)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=args).state

    def _set_aside(self, broken, taken):
        self._manager.close()
        for step, reason in broken.items():
            aside = self._directory / f"{BROKEN_PREFIX}{step}"
            _log.warning(
                "checkpoint %s in %s can't be read (%s): it is now %s, and %s is taken",
                step,
                self._directory,
                reason[0][:200],
                aside.name,
                taken,
            )
            if jax.process_index() == 0:
                if aside.exists():
                    aside.rmtree()
                (self._directory / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")
        self._manager = self._open()

    def _check(self, step, abstract):
        # Orbax reports shapes only one by one, and casts a differing dtype silently.
        saved = self._manager.item_metadata(step)["state"]
        if saved is None:
            raise OSError("it has no metadata")
        _expect_same(f"checkpoint {step} in {self._directory}", saved, abstract)


def restore_or_save_frozen(directory: epath.PathLike, tree: Any) -> Any:
    """Saves `tree` at `directory`, or returns what was saved there, with `tree`'s shardings.

    It is for frozen parameters, which a run needs and never changes.

    Raises:
        ValueError: what was saved there has another structure, shape or dtype.
    """
    directory = absolute(directory)
    if not jax.tree.leaves(tree):
        return tree
    with ocp.StandardCheckpointer() as checkpointer:
        if not directory.exists():
            checkpointer.save(directory, tree)
            return tree
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        _expect_same(str(directory), checkpointer.metadata(directory).item_metadata, abstract)
        return checkpointer.restore(directory, abstract)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path for Orbax: a local one made absolute, a bucket's unchanged."""
    path = epath.Path(path)
    return path if "://" in str(path) else epath.Path(path.absolute())


def _expect_same(where, saved, wanted):
    saved, wanted = _leaves(saved), _leaves(wanted)
    differ = sorted(n for n in saved.keys() | wanted if saved.get(n) != wanted.get(n))
    if differ:
        lines = [f"{n}: saved {saved.get(n)}, wanted {wanted.get(n)}" for n in differ[:5]]
        raise CheckpointMismatch(
            f"{where} is of another model or optimizer; {len(differ)} entries differ: "
            + "; ".join(lines)
        )


def _leaves(tree):
    """Returns name -> (shape, dtype); a tuple's names are those of a dict with digits as keys."""

    def name(path):
        return "/".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        )

    return {
        name(path): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
