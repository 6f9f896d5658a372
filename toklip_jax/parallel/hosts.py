"""Communication between the processes of a program, and which of them writes."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_main_host() -> bool:
    """Returns whether this is process 0, which writes what only one process may write."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has reached this point; does nothing on a single one.

    Args:
        name: the point's name; processes that wait at different names raise an error.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_from_main(value: Any) -> Any:
    """Returns host 0's `value`, which json can hold, on every host; all must call it."""
    return gather_from_hosts(value)[0]


def call_on_main(work: Callable[[], Any]) -> Any:
    """Calls `work` on host 0 alone, and returns its result, which json can hold, on every host.

    All hosts must call it. They wait for host 0, and where it fails all of them fail.

    Raises:
        ValueError, OSError: what `work` raises, on host 0; a ValueError of it on the others.
    """
    result = error = None
    if is_main_host():
        try:
            result = work()
        except (ValueError, OSError) as caught:
            error = caught
    result, failure = broadcast_from_main([result, error and f"{type(error).__name__}: {error}"])
    if error is not None:
        raise error
    if failure:
        raise ValueError(f"host 0 met an error: {failure}")
    return result


def gather_from_hosts(value: Any) -> list[Any]:
    """Returns every host's `value`, which json can hold, in order; all must call it."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    padded = np.zeros(int(np.max(sizes)), np.uint8)
    padded[: len(data)] = data
    received = np.asarray(multihost_utils.process_allgather(padded))
    rows = zip(received, np.asarray(sizes).ravel(), strict=True)
    return [json.loads(row[:size].tobytes()) for row, size in rows]
