"""Communication between the processes of a program, and which of them writes."""

import json
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
        name: of the point; processes that wait at different names raise an error.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_from_main(value: Any) -> Any:
    """Returns host 0's `value`, which json can hold, on every host; all must call it."""
    return gather_from_hosts(value)[0]


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
