"""Batches of several hosts: where one can't read its rows, all of them stop at the same step.

The others are in a step by then, which needs the rows of all. So that host takes part with old rows
that are marked, and a step with marked rows changes nothing (`step.MISSING`). All hosts see that in
the step's metrics, and save the steps before it.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.parallel.hosts import call_on_all, gather_from_hosts
from toklip_jax.training.step import MISSING

_LAG = 2  # steps behind, so that reading a result does not stall the device


class HostBatches:
    """This host's batches, from a function that reads the next one."""

    def __init__(self, read: Callable[[], Mapping[str, Any]]):
        self._read = read
        self._is_shared = jax.process_count() > 1
        self._batch, self._failure = None, None
        self._pending = collections.deque()

    def fetch(self) -> dict[str, Any]:
        """Returns the next batch; of several hosts, after one failed to read, the last and marked.

        Raises:
            Exception: what reading raises, where there is one host, or no batch to mark yet.
        """
        if not self._is_shared:
            return dict(self._read())
        if self._batch is None:
            self._batch = call_on_all(self._read)
        elif self._failure is None:
            try:
                self._batch = self._read()
            except Exception as error:
                self._failure = error
        rows = len(next(x for x in self._batch.values() if isinstance(x, np.ndarray)))
        return {**self._batch, MISSING: np.full(rows, self._failure is not None)}

    def check(self, metrics: dict[str, jax.Array], must_know: bool) -> None:
        """Ends all hosts where one of them could not read; all must call it after every step.

        It takes what tells them out of the metrics, which are the task's own after it.

        Args:
            must_know: whether to wait for this step's result; else for that of one some steps back.

        Raises:
            Exception: what reading has raised here. Where it has not, a ValueError that names the
                host.
        """
        if not self._is_shared:
            return
        self._pending.append(metrics.pop(MISSING))
        while len(self._pending) > (0 if must_know else _LAG):
            if float(np.asarray(self._pending.popleft())):
                self._end()

    def _end(self):
        failure = self._failure and f"{type(self._failure).__name__}: {self._failure}"
        failures = gather_from_hosts(failure)
        if self._failure is not None:
            raise self._failure
        host = next(host for host, one in enumerate(failures) if one)
        raise UserError(f"host {host} met an error: {failures[host]}")
