"""Steps that are not finite: counted, and their samples named."""

import collections
import json
import pathlib
from typing import Any

import jax
import numpy as np

from toklip_jax.core.errors import NotFinite

_LAG = 2  # steps behind, so that reading a result does not stall the device


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
            raise NotFinite(self._dump())

    def _dump(self):
        steps = [record["step"] for record in self._in_a_row]
        path = self._directory / f"not_finite_{steps[-1]}_host_{jax.process_index()}.json"
        try:
            path.write_text(json.dumps(self._in_a_row, indent=1) + "\n")
            where = f"are in {path}"
        except OSError as error:
            where = f"could not be written to {path} ({error.strerror})"
        return (
            f"loss or gradient were not finite in {len(steps)} steps in a row ({steps[0]} to "
            f"{steps[-1]}), which changed nothing; their samples {where}. The last good state is "
            f"saved: lower the learning rate or take out the samples, and run again"
        )
