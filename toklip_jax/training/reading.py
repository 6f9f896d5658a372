"""Reads what several hosts read together: all of them end alike, and storage gets a second chance.

An error that may pass says nothing about the files: the storage is asked again, for about a minute,
and then the error is raised. Only content that was read, and is wrong, is damage.
"""

import dataclasses
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from toklip_jax.core.errors import StorageFailed, TryAgain, UserError
from toklip_jax.parallel.hosts import gather_from_hosts

T = TypeVar("T")
_log = logging.getLogger(__name__)

# Seconds before another try. A wrong content may also come from a reader that was cut short.
DELAYS_OF_STORAGE = (1.0, 4.0, 15.0, 40.0)
DELAYS_OF_DAMAGE = (0.5,)
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# What readers raise for content that they can't parse.
PARSING = (ValueError, LookupError, TypeError, AttributeError, EOFError, AssertionError)
PARSING += (RecursionError,)
# In the ValueErrors of TensorStore: the states of a service, and the error that a system call met.
PASSING = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED|INTERNAL|UNKNOWN"
    r"|PERMISSION_DENIED|UNAUTHENTICATED)\b|os_error_code='(?!2')\d+'"
)
FORBIDDEN = re.compile(r"permission.denied|unauthenticated", re.IGNORECASE)
REFUSED, DAMAGED, STORAGE = "refused", "damaged", "storage"


class Damaged(UserError):
    """Files whose content is not what was written."""


class Refused(UserError):
    """Files that are whole, and not those that were asked for."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    kind: str
    text: str


def read_together(read: Callable[[], T], where: str) -> T:
    """Returns `read()` once it succeeds on every host; all must call it, and all end alike.

    Args:
        read: may not wait for other hosts, as it may fail on one of them alone.
        where: a name for what is read, for messages.

    Raises:
        Refused: some host's `read` raises it.
        Damaged: what some host read was wrong, more than once.
        TryAgain: some host's storage could not be read for about a minute.
        OSError: it may not be read.
    """
    result, tries = None, 0
    while True:
        failure = None
        if result is None:
            result, failure = _attempt(read)
        met = gather_from_hosts(failure and dataclasses.asdict(failure))
        failures = [_Failure(**each) for each in met if each]
        if not failures:
            return result[0]
        worst = min(failures, key=lambda each: (REFUSED, STORAGE, DAMAGED).index(each.kind))
        delay = _delay(worst.kind, tries)
        if delay is None:
            raise _error(worst, where)
        _log.warning("reading %s again in %g s: %s", where, delay, worst.text)
        time.sleep(delay)
        tries += 1


def _attempt(read):
    """Returns (the result in a list, None), or (None, the failure)."""
    try:
        return [read()], None
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        return None, _Failure(_kind(error), text)


def _kind(error: BaseException) -> str:
    if type(error) is Exception and error.__cause__ is not None:  # as Orbax wraps what it met
        return _kind(error.__cause__)
    if isinstance(error, Refused):
        return REFUSED
    is_content = isinstance(error, (Damaged, *MISSING, *PARSING))
    return DAMAGED if is_content and not PASSING.search(str(error)) else STORAGE


def _delay(kind, tries):
    delays = {REFUSED: (), DAMAGED: DELAYS_OF_DAMAGE, STORAGE: DELAYS_OF_STORAGE}[kind]
    return delays[tries] if tries < len(delays) else None


def _error(failure, where):
    if failure.kind == REFUSED:
        return Refused(failure.text)
    if failure.kind == DAMAGED:
        return Damaged(failure.text)
    text = f"{where} could not be read ({failure.text}), and nothing is changed there"
    if FORBIDDEN.search(failure.text):
        return StorageFailed(f"{text}: give this user the right to read it")
    return TryAgain(text)
