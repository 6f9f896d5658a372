"""Progress of long work: a bar on a terminal, a line a minute elsewhere; on host 0 alone."""

import time
from collections.abc import Callable

import tqdm

from toklip_jax.core.lines import in_words
from toklip_jax.parallel.hosts import is_main_host

SECONDS_PER_LINE = 60  # where there is no terminal for a bar


class Progress:
    """Counts what is done of a total, within a `with` statement."""

    def __init__(self, title: str, total: int, start: int = 0, unit: str = "batch"):
        """Begins at `start`, which an earlier run had done.

        Args:
            unit: what is counted, in the singular.
        """
        self._title, self._total, self._unit = title, total, unit
        self._done, self._start = start, start
        self._last = self._began = time.monotonic()
        disable = None if is_main_host() else True  # None: where there is no terminal
        self._bar = tqdm.tqdm(
            total=total, initial=start, desc=title, unit=unit, disable=disable, leave=False
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def advance(self, number: int = 1) -> None:
        """Counts what was done since the last call."""
        self._done += number
        self._bar.update(number)
        now = time.monotonic()
        if self._bar.disable and is_main_host() and now - self._last > SECONDS_PER_LINE:
            self._last = now
            seconds = (now - self._began) / (self._done - self._start)
            left = in_words(seconds * (self._total - self._done))
            unit = f"{self._unit}es" if self._unit.endswith("ch") else f"{self._unit}s"
            print(f"{self._title} {self._done}/{self._total} {unit} | {left} left", flush=True)

    def counted(self, function: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that counts one, and calls `function`."""

        def both() -> None:
            self.advance()
            function()

        return both
