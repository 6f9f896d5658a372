"""Progress of long work: a bar on a terminal, a line a minute elsewhere; on host 0 alone."""

import shutil
import time
from collections.abc import Callable
from typing import Any

import tqdm

from toklip_jax.core.lines import MAX_COLUMNS, in_words
from toklip_jax.parallel.hosts import is_main_host

SECONDS_PER_LINE = 60  # where there is no terminal for a bar
FORMAT = "{desc} {n_fmt}/{total_fmt} {bar} {left}"


class Bar(tqdm.tqdm):
    """A bar of at most 100 columns, whose time left is in words; only where there is a terminal."""

    def __init__(
        self, title: str, total: int, start: int = 0, *, is_shown: bool = True, **options: Any
    ):
        """Begins at `start`; `options` are tqdm's."""
        super().__init__(
            total=total,
            initial=start,
            desc=title,
            disable=options.pop("disable", None if is_shown else True),  # None: tqdm looks
            ncols=min(shutil.get_terminal_size().columns, MAX_COLUMNS),
            bar_format=FORMAT,
            **options,
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the format may show: tqdm's fields, and `left`."""
        found = super().format_dict
        done, seconds = found["n"] - found["initial"], found["elapsed"]
        rate = found["rate"] or (done / seconds if seconds else 0)
        seconds = (found["total"] - found["n"]) / rate if rate else None
        return found | {"left": "" if seconds is None else f"{in_words(seconds)} left"}


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
        self._bar = Bar(title, total, start, is_shown=is_main_host(), leave=False)

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
