"""Handles what can go wrong in a run: preemption, and steps that are not finite."""

import collections
import contextlib
import json
import pathlib
import signal
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_LAG = 2  # steps behind, so that reading a result does not stall the device


class Preempted(Exception):
    """The run was told to stop (SIGTERM), and has saved."""


class Preemption:
    """Watches for SIGTERM; on several hosts, jax makes all of them stop at the same step.

    Args:
        is_alone: whether only signals to this process count; the others are not asked.
    """

    def __init__(self, is_alone: bool = False):
        self._is_alone = is_alone or jax.process_count() == 1
        self._is_told, self._old, self._asked = False, None, 0

    def __enter__(self) -> "Preemption":
        if self._is_alone:  # else jax.distributed has its own handler
            # Outside the main thread this raises ValueError: the caller handles signals then.
            with contextlib.suppress(ValueError):
                self._old = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *error) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    def is_reached(self) -> bool:
        """Returns whether to save and stop now; the same on all hosts, which ask every step."""
        if self._is_alone:
            return self._is_told
        # Counted from the start of the process: a signal before the first call sets the stop at
        # number 1, which the step of a resumed run would never equal.
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def _tell(self, signum, frame):
        self._is_told = True


class SkippedSteps:
    """Counts skipped steps in a row, and remembers which samples they had.

    Args:
        limit: number of skipped steps in a row that ends the run.
    """

    def __init__(self, limit: int, directory: pathlib.Path):
        self._limit, self._directory = limit, directory
        self._pending, self._in_a_row = collections.deque(), []

    def add(self, step: int, is_skipped: jax.Array, keys: Any) -> None:
        """Records a step, and reads the result of one some steps back.

        Raises:
            FloatingPointError: the limit is reached; the samples' keys are in a file.
        """
        self._pending.append((step, is_skipped, keys))
        while len(self._pending) > _LAG:
            self._look()

    def finish(self) -> None:
        """Reads the results of all recorded steps."""
        while self._pending:
            self._look()

    def _look(self):
        step, is_skipped, keys = self._pending.popleft()
        if not float(np.asarray(is_skipped)):
            self._in_a_row = []
            return
        self._in_a_row.append({"step": step, "keys": keys})
        if len(self._in_a_row) >= self._limit:
            raise FloatingPointError(self._dump())

    def _dump(self):
        steps = [record["step"] for record in self._in_a_row]
        path = self._directory / f"not_finite_{steps[-1]}_host_{jax.process_index()}.json"
        path.write_text(json.dumps(self._in_a_row, indent=1) + "\n")
        return (
            f"loss or gradient were not finite in {len(steps)} steps in a row ({steps[0]} to "
            f"{steps[-1]}), which changed nothing; their samples are in {path}. The last good "
            f"state is saved: lower the learning rate or take out the samples, and run again"
        )
