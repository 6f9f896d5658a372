"""Errors of the user, and the exit statuses of the commands."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

SUCCESS = 0
USER_ERROR = 2  # the user can fix it: config, paths, data; one line says how
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: all is saved, and the same command continues
INTERRUPTED = 130  # the shell's status of a command that was interrupted


class UserError(ValueError):
    """An error that the user can fix; its message says what was expected, found, and to do."""


class TryAgain(Exception):
    """Something outside the program failed, which the next start may not meet.

    All is saved; the exit status is `PREEMPTED`, so that launchers run the same command again.
    """


class Preempted(BaseException):
    """The program was told to stop (SIGTERM); all that it has to keep is saved.

    It is no `Exception`, as `KeyboardInterrupt` is none: nothing that handles failures may take it
    for one.
    """


class SeveralErrors(ValueError):
    """Errors that were found together, in `lines`."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = list(lines)


class Problems:
    """Collects errors, so that all of them are reported together."""

    def __init__(self):
        self.lines: list[str] = []

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Returns `read()`, or None where it raises a ValueError, whose message is kept."""
        try:
            return read()
        except ValueError as error:
            lines = error.lines if isinstance(error, SeveralErrors) else [str(error)]
            self.lines += [line for line in lines if line not in self.lines]
            return None

    def passes(self, check: Callable[[], Any]) -> bool:
        """Returns whether `check()` raises no ValueError; the message of one is kept."""
        return self.attempt(lambda: (check(),)) is not None

    def raise_lines(self) -> None:
        """Raises what was collected, for whoever collects more: one error or `SeveralErrors`."""
        if len(self.lines) > 1:
            raise SeveralErrors(self.lines)
        if self.lines:
            raise ValueError(self.lines[0])

    def raise_if_any(self, where: str) -> None:
        """Raises a `UserError` with all messages, one a line where there are several."""
        if not self.lines:
            return
        if len(self.lines) == 1:
            raise UserError(self.lines[0])
        raise UserError(f"{len(self.lines)} errors in {where}:\n  " + "\n  ".join(self.lines))
