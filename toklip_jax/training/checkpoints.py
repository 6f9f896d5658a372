"""Checkpoints of a training run: Orbax, asynchronous, atomic, restorable onto another mesh.

A directory may be local or a bucket's (`gs://`, `s3://`): Orbax and etils' paths open both.

    STEP/state/          the arrays
    STEP/description/    json: the run, and each array's shape, type and checksum, sealed by a hash
    broken-STEP/         a checkpoint that was damaged; nothing deletes it
"""

import contextlib
import gc
import itertools
import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from toklip_jax.core.errors import StorageFailed
from toklip_jax.parallel.hosts import broadcast_from_main, call_on_main
from toklip_jax.training.contents import describe_arrays, expect_same, outlines, seal, unseal
from toklip_jax.training.reading import Damaged, read_together

_log = logging.getLogger(__name__)
BROKEN_PREFIX = "broken-"  # a damaged checkpoint is renamed to this and its step
STATE, DESCRIPTION = "state", "description"  # items of a checkpoint
NOTES = "_CHECKPOINT_METADATA"  # Orbax's own file in a checkpoint
UNREADABLE = (OSError, ValueError, LookupError, TypeError)


class Checkpoints:
    """The checkpoints under one directory; where there are several hosts, all call every method.

    A save that was interrupted leaves only a temporary folder, which the next save deletes.

    Args:
        keep: how many of the newest are kept.
        keep_every: those at multiples of this many steps are kept too; 0 for none.
        best: name of a metric; the checkpoint where it was highest is kept too.
        description: saved with every state, as json, such as the run's config.
        identity: saved too: what else made the state, such as the weights that it started from.

    Attributes:
        directory: an absolute path.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep: int = 2,
        keep_every: int = 0,
        best: str = "",
        description: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None,
    ):
        policies = [preservation_policy.LatestN(keep)]
        if keep_every:
            policies.append(preservation_policy.EveryNSteps(keep_every))
        self.directory = absolute(directory)
        self._best = best
        self._about = {"description": dict(description or {}), "identity": dict(identity or {})}
        self._figures = self._saved_figures() if best else {}
        if best:
            policies.append(_Highest(self._figures))
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step that is whole on disk, or None; the same on all hosts."""
        self._manager.wait_until_finished()
        return broadcast_from_main(self._manager.latest_step())

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving `state` while training continues; does nothing if the step is saved."""
        if step in self._manager.all_steps():
            return
        figure = (metrics or {}).get(self._best)
        if figure is not None and math.isfinite(figure):
            self._figures[step] = float(figure)
        content = {
            **self._about,
            "arrays": describe_arrays(state),
            "figures": {self._best: self._figures.get(step)},
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), description=ocp.args.JsonSave(seal(content))
        )
        with self._explained():
            self._manager.save(step, args=args)

    def restore(self, state: Any, step: int | None = None) -> Any:
        """Returns the state saved at `step`, the newest unless given.

        If the newest is damaged, it is renamed, the one before it is used, and a warning says so;
        if all are, they are left as they are.

        Args:
            state: its structure: arrays or `jax.ShapeDtypeStruct`s with the shardings wanted.

        Raises:
            Refused: a checkpoint of another structure, shape or dtype.
            Damaged: no whole checkpoint.
            TryAgain: the storage could not be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        if step is not None:
            return self._restore(abstract, step)
        self._manager.wait_until_finished()
        broken: dict[int, str] = {}
        for step in broadcast_from_main(sorted(self._manager.all_steps(), reverse=True)):
            try:
                state = self._restore(abstract, step)
            except Damaged as error:
                broken[step] = str(error)
                continue
            if broken:
                self._set_aside(broken, step)
            return state
        reasons = "".join(f"; {step}: {text[:200]}" for step, text in broken.items())
        raise Damaged(
            f"expected a checkpoint in {self.directory}, found none that can be read{reasons}"
        )

    def describe(self, step: int) -> dict[str, Any]:
        """Returns the description saved with `step`."""
        return self._content(step)["description"]

    def identify(self, step: int) -> dict[str, Any]:
        """Returns the identity saved with `step`; an earlier version saved none."""
        return self._content(step).get("identity", {})

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
            raise StorageFailed(
                f"no space left in {self.directory}: a checkpoint could not be written. What is "
                f"there is whole; make room, or keep fewer, and run the same command again"
            ) from error

    def _open(self):
        call_on_main(self._set_notes_aside)
        try:
            return ocp.CheckpointManager(
                self.directory,
                options=self._options,
                # Given by name, as a new manager reads no metadata otherwise.
                item_handlers={
                    STATE: ocp.StandardCheckpointHandler(),
                    DESCRIPTION: ocp.JsonCheckpointHandler(),
                },
            )
        except (ValueError, LookupError, TypeError) as error:
            raise Damaged(
                f"expected Orbax's own notes in {self.directory}/*/{NOTES}, got others ({error}): "
                f"delete the file that was changed, without which the checkpoint can be read"
            ) from error

    def _set_notes_aside(self):
        """Renames Orbax's notes on a checkpoint, its times, where no manager could read them."""
        for path in self.directory.glob(f"[0-9]*/{NOTES}"):
            try:
                reason = "" if isinstance(json.loads(path.read_bytes()), dict) else "no object"
            except (ValueError, RecursionError) as error:
                reason = str(error)
            if reason:
                path.rename(path.with_name(f"{BROKEN_PREFIX}notes"))
                _log.warning("%s is damaged (%s): the checkpoint is read without", path, reason)

    def _where(self, step):
        return f"checkpoint {step} in {self.directory}"

    def _content(self, step) -> dict[str, Any]:
        """Returns what `save` sealed; of an earlier version's checkpoint only the description."""
        path = self.directory / str(step) / DESCRIPTION
        return read_together(lambda: _read_description(path), self._where(step))

    def _restore(self, abstract, step):
        saved = self._content(step).get("arrays")
        if saved is not None:
            expect_same(self._where(step), {n: x[:2] for n, x in saved.items()}, abstract)
        for _ in range(2):  # what was read wrong once may be read right
            state = read_together(lambda: self._read(abstract, step, saved), self._where(step))
            if saved is None:
                return state
            found = describe_arrays(state)
            differ = [name for name in saved if found[name] != saved[name]]
            if not differ:
                return state
        raise Damaged(
            f"the checksums of {len(differ)} of {len(saved)} arrays differ, first {differ[0]}"
        )

    def _read(self, abstract, step, saved):
        # The handlers are used directly: the manager's `restore` ends with a barrier, at which a
        # host would wait for ever for one whose reading failed.
        handler, path = ocp.StandardCheckpointHandler(), self.directory / str(step) / STATE
        if saved is None:
            # Orbax reports shapes only one by one, and casts a differing dtype silently.
            expect_same(self._where(step), outlines(handler.metadata(path)), abstract)
        with _silent():
            return handler.restore(path, args=ocp.args.StandardRestore(abstract))

    def _set_aside(self, broken, taken):
        """Renames damaged checkpoints, so that their steps can be saved again."""
        self._manager.close()
        for step, reason in broken.items():
            aside = call_on_main(lambda step=step: self._rename(step))
            _log.warning(
                "checkpoint %s in %s is damaged (%s): it is now %s, and %s is taken",
                step,
                self.directory,
                reason[:200],
                aside,
                taken,
            )
        self._manager = self._open()

    def _rename(self, step) -> str:
        names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        aside = next(
            path
            for name in names
            if not (path := self.directory / f"{BROKEN_PREFIX}{step}{name}").exists()
        )
        (self.directory / str(step)).rename(aside)
        return aside.name

    def _saved_figures(self) -> dict[int, float]:
        """Returns the figure by which `best` compares each checkpoint; damaged ones have none."""

        def read():
            found = {}
            for path in self.directory.glob(f"[0-9]*/{DESCRIPTION}"):
                with contextlib.suppress(*UNREADABLE):
                    figure = _read_description(path)["figures"][self._best]
                    found[int(path.parent.name)] = float(figure)
            return list(found.items())

        return dict(call_on_main(read))


class _Highest(preservation_policy.PreservationPolicy):
    """Preserves the checkpoint whose figure is highest."""

    def __init__(self, figures: Mapping[int, float]):
        self._figures = figures  # which grow as checkpoints are saved

    def should_preserve(self, checkpoints, *, context):
        steps = [each.step for each in checkpoints]
        best = max((s for s in steps if s in self._figures), key=self._figures.get, default=None)
        return [step == best for step in steps]


def _read_description(path):
    return unseal(ocp.JsonCheckpointHandler().restore(path))


@contextlib.contextmanager
def _silent():
    """Hides the tracebacks of reads that Orbax gives up once another read has failed."""
    asyncio, hook = logging.getLogger("asyncio"), sys.unraisablehook
    level = asyncio.level
    asyncio.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        gc.collect()  # now, as what was given up speaks when it is collected
        raise
    finally:
        asyncio.setLevel(level)
        sys.unraisablehook = hook


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path for Orbax: a local one made absolute, a bucket's unchanged."""
    path = epath.Path(path)
    return path if "://" in str(path) else epath.Path(path.absolute())
