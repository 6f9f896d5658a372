"""Communication between the processes of a program, and which of them writes."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the only way to its barrier with a time limit
from jax.experimental import multihost_utils

from toklip_jax.core.errors import UserError, is_users

T = TypeVar("T")


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


def all_arrive(name: str, seconds: float) -> bool:
    """Returns whether every process has reached this point within some time; True on a single one.

    It is for the ways out of a program, where others may be stuck or gone.

    Args:
        name: the point's name; a program arrives there at most once.
    """
    if jax.process_count() == 1:
        return True
    try:
        client = distributed.global_state.client
        client.wait_at_barrier(name, timeout_in_ms=int(seconds * 1000))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def broadcast_from_main(value: Any) -> Any:
    """Returns host 0's `value`, which json can hold, on every host; all must call it."""
    return gather_from_hosts(value)[0]


def call_on_main(work: Callable[[], Any]) -> Any:
    """Calls `work` on host 0 alone, and returns its result, which json can hold, on every host.

    All hosts must call it. They wait for host 0, and where it fails all of them fail.

    Raises:
        Exception: what `work` raises, on host 0. On the others, a UserError where the user can fix
            it, else a RuntimeError.
    """
    result = error = None
    if is_main_host():
        try:
            result = work()
        except Exception as caught:
            error = caught
    is_fixable = is_users(error)
    failure = error and f"{type(error).__name__}: {error}"
    result, failure, is_fixable = broadcast_from_main([result, failure, is_fixable])
    if error is not None:
        raise error
    if failure:
        raise (UserError if is_fixable else RuntimeError)(f"host 0 met an error: {failure}")
    return result


def call_on_all(work: Callable[[], T]) -> T:
    """Calls `work` on every host, and returns its result; where one fails, all of them fail.

    All hosts must call it. `work` must not wait for other hosts.

    Raises:
        Exception: what `work` raises here. Where it only fails on others, as `call_on_main`.
    """
    result = error = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    is_fixable = is_users(error)
    failures = gather_from_hosts([error and f"{type(error).__name__}: {error}", is_fixable])
    if error is not None:
        raise error
    for host, (failure, is_fixable) in enumerate(failures):
        if failure:
            kind = UserError if is_fixable else RuntimeError
            raise kind(f"host {host} met an error: {failure}")
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
