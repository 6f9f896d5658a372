"""SIGTERM, by which schedulers end a program: it stops at once, or as soon as it has saved.

A command runs within `stopping_at_once`. What must not be cut short, such as a training step and
its save, runs within `stopping_when_asked` and asks `is_told`. On several hosts the signal may
reach one of them alone: jax then makes all of them stop at the same call of `is_told`.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from toklip_jax.core.errors import Preempted

STOPPED = "stopped as it was told to"


@dataclasses.dataclass
class _Watch:
    """The signals of this process, which are one for all of its parts.

    Attributes:
        depth: the number of contexts entered.
        raises: whether a signal raises at once.
        is_told: whether a signal came since the outermost context was entered.
        asked: the number of calls of `is_told` since the process started. A signal on several
            hosts sets the stop at a number of calls, so the count is never reset.
    """

    depth: int = 0
    raises: bool = False
    is_told: bool = False
    asked: int = 0


_watch = _Watch()


def stopping_at_once() -> contextlib.AbstractContextManager[None]:
    """Within it, SIGTERM raises `Preempted` wherever the main thread is, as Ctrl-C does.

    On several hosts, which have to stop together, it only makes `is_told` true.
    """
    return _watching(raises=True)


def stopping_when_asked(is_alone: bool = False) -> contextlib.AbstractContextManager[None]:
    """Within it, SIGTERM only makes `is_told` true.

    Args:
        is_alone: whether only signals to this process count, of several hosts too.
    """
    return _watching(raises=False, is_alone=is_alone)


def is_told(is_alone: bool = False) -> bool:
    """Returns whether to save and stop now.

    Args:
        is_alone: whether only signals to this process count. Else the answer is the same on all
            hosts, which must all ask equally often.
    """
    if not is_alone and jax.process_count() > 1 and not _watch.is_told:
        _watch.asked += 1
        _watch.is_told = multihost_utils.reached_preemption_sync_point(_watch.asked)
    return _watch.is_told


def stop_if_told() -> None:
    """Stops where nothing needs to be saved; all hosts must call it equally often.

    Raises:
        Preempted: a signal came.
    """
    if is_told():
        raise Preempted(STOPPED)


@contextlib.contextmanager
def _watching(raises: bool, is_alone: bool = False) -> Iterator[None]:
    if not _watch.depth:
        _watch.is_told = False
    before, old = _watch.raises, _install(is_alone)
    _watch.depth, _watch.raises = _watch.depth + 1, raises
    try:
        yield
    finally:
        _watch.depth, _watch.raises = _watch.depth - 1, before
        if old is not None:
            signal.signal(signal.SIGTERM, old)
    if before and _watch.is_told and not jax.distributed.is_initialized():
        raise Preempted(STOPPED)  # by the signal that came meanwhile


def _install(is_alone):
    """Handles the signal here, unless jax does for all hosts; returns the handler before."""
    if jax.distributed.is_initialized() and not is_alone:
        return None
    try:
        return signal.signal(signal.SIGTERM, _tell)
    except ValueError:  # not the main thread: whoever started it handles signals
        return None


def _tell(signum, frame):
    _watch.is_told = True
    if _watch.raises:
        _watch.raises = False  # the next one must not cut short what cleans up after this one
        raise Preempted(STOPPED)
