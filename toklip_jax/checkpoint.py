"""Checkpoints of a training run: Orbax, asynchronous, atomic, restorable onto another mesh."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints under one directory; the newest `keep` stay.

    A save that was cut off leaves only a temporary folder, which is gone by the next save.
    """

    def __init__(self, directory: str | pathlib.Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(
            pathlib.Path(directory).absolute(),
            options=options,
            item_handlers=ocp.StandardCheckpointHandler(),  # else a new manager reads no metadata
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step that is whole on disk, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts saving `state`; training goes on meanwhile."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, state: Any, step: int | None = None) -> Any:
        """Returns the state saved at `step`, the newest unless given.

        Args:
            state: its structure: arrays or `jax.ShapeDtypeStruct`s with the shardings wanted.

        Raises:
            ValueError: no checkpoint, or one of another structure, shape or dtype.
        """
        step = self.latest_step if step is None else step
        if step is None:
            raise ValueError(f"expected a checkpoint in {self._manager.directory}, found none")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        self._check(step, abstract)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Waits for the last save and lets go of the directory."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _check(self, step, abstract):
        # Orbax reports shapes only one by one, and casts a differing dtype silently.
        saved = _leaves(self._manager.item_metadata(step))
        wanted = _leaves(abstract)
        differ = sorted(n for n in saved.keys() | wanted if saved.get(n) != wanted.get(n))
        if differ:
            lines = [f"{n}: saved {saved.get(n)}, wanted {wanted.get(n)}" for n in differ[:5]]
            raise ValueError(
                f"checkpoint {step} in {self._manager.directory} is of another model or optimizer; "
                f"{len(differ)} entries differ: " + "; ".join(lines)
            )


def _leaves(tree):
    """Name -> (shape, dtype), with names that don't tell a tuple from a dict with digits."""

    def name(path):
        return "/".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        )

    return {
        name(path): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
