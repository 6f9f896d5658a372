"""Work that training does not need, in threads of their own: it never stops or delays a run."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")
MAX_WAITING = 10_000  # calls; those that come while so many wait are left out


class BestEffort(Generic[T]):
    """An object that is opened, used and closed in a thread of its own, call by call in order.

    Where that raises, the object is given up; where it is stuck, calls are left out. Both are said
    once, and nothing here raises or waits (but `close`, for a while).
    """

    def __init__(self, title: str, opener: Callable[[], T], close_seconds: float = 10.0):
        """Starts the thread.

        Args:
            title: the object's name in warnings, such as "TensorBoard".
            opener: opens it; its `close`, if it has one, is called at the end.
            close_seconds: how long `close` waits for the calls that are left.
        """
        self._title, self._close_seconds = title, close_seconds
        self._is_given_up = self._has_warned = False
        self._waiting: queue.Queue[Callable[[T], Any] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(
            target=self._work, args=(opener,), name=f"log: {title}", daemon=True
        )
        self._thread.start()

    def call(self, work: Callable[[T], Any]) -> None:
        """Has `work` called with the object, soon; it returns at once."""
        if self._is_given_up:
            return
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            self._warn_once("is stuck: what it should have written is left out")

    def close(self) -> None:
        """Has the object closed after the calls that wait, and waits for it, for a while."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:  # make room: it is stuck, and loses calls in any case
            self._waiting.get_nowait()
            self._waiting.put_nowait(None)
        self._thread.join(self._close_seconds)
        if self._thread.is_alive() and not self._is_given_up:
            self._warn_once(f"did not end within {self._close_seconds:g} s: its last part is lost")

    def _work(self, opener):
        try:
            target = opener()
            while (work := self._waiting.get()) is not None:
                work(target)
            if hasattr(target, "close"):
                target.close()
        except Exception as error:
            self._is_given_up = True
            self._warn(f"has stopped ({type(error).__name__}: {error})")

    def _warn_once(self, what):
        if not self._has_warned:
            # Not in the caller's thread: the terminal itself may be what is stuck.
            threading.Thread(target=self._warn, args=(what,), daemon=True).start()

    def _warn(self, what):
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s %s; the run continues without it", self._title, what)
