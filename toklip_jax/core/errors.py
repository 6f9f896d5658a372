"""Errors of the user, and the exit statuses of the commands.

An error that the user can fix is a `UserError`, an `OSError` about a file or a full disk, or a
`ModuleNotFoundError` about a package that an extra installs: a command says it in one line and ends
with `USER_ERROR`. Any other is the program's, and keeps its traceback.
"""

import errno
import io
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from toklip_jax.core.extras import line_for_missing
from toklip_jax.core.printable import printable_lines

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or one's share of it

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


# Those among which a user's are; `line_for_user` tells.
USERS = (UserError, OSError, ModuleNotFoundError)


class NotFound(UserError, FileNotFoundError):
    """Nothing is where the user said that something is."""


class AlreadyExists(UserError, FileExistsError):
    """Something is where the user said that something new shall be."""


class StorageFailed(UserError, OSError):
    """Storage that the user named could not be used: full, or out of reach."""


class NotFinite(UserError, FloatingPointError):
    """Training met too many losses or gradients that are not finite."""


class SeveralErrors(UserError):
    """Errors that were found together, in `lines`."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = list(lines)


class Problems:
    """Collects errors, so that all of them are reported together."""

    def __init__(self):
        self.lines: list[str] = []

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Returns `read()`, or None where it raises a UserError, whose message is kept."""
        try:
            return read()
        except UserError as error:
            lines = error.lines if isinstance(error, SeveralErrors) else [str(error)]
            self.lines += [line for line in lines if line not in self.lines]
            return None

    def passes(self, check: Callable[[], Any]) -> bool:
        """Returns whether `check()` raises no UserError; the message of one is kept."""
        return self.attempt(lambda: (check(),)) is not None

    def raise_lines(self) -> None:
        """Raises what was collected, for whoever collects more: one error or `SeveralErrors`."""
        if len(self.lines) > 1:
            raise SeveralErrors(self.lines)
        if self.lines:
            raise UserError(self.lines[0])

    def raise_if_any(self, where: str) -> None:
        """Raises a `UserError` with all messages, one a line where there are several."""
        if not self.lines:
            return
        if len(self.lines) == 1:
            raise UserError(self.lines[0])
        raise UserError(f"{len(self.lines)} errors in {where}:\n  " + "\n  ".join(self.lines))


def exit_status(work: Callable[[], int | None], has_traceback: bool = False) -> int:
    """Calls `work`, and returns its exit status; an error of the user is printed in one line.

    What is printed meanwhile may hold names that standard output can't: they are escaped.

    Args:
        has_traceback: raise errors of the user too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it
    try:
        return work() or SUCCESS
    except USERS as error:
        line = line_for_user(error)
        if has_traceback or line is None:
            raise
        print(f"error: {printable_lines(line)}", file=sys.stderr)
        return USER_ERROR


def is_users(error: BaseException | None) -> bool:
    """Tells whether an error is one that the user can fix."""
    return isinstance(error, USERS) and line_for_user(error) is not None


def line_for_user(error: UserError | OSError | ModuleNotFoundError) -> str | None:
    """Returns what the user is told about an error, or None where it is the program's."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return line_for_missing(error)
    if error.errno in FULL:
        return f"expected room on the disk, got {error.strerror!r}: make room, and run again"
    if error.filename is None or error.strerror is None:
        return None
    return (
        f"expected a file or directory that can be used, got {error.filename!r} "
        f"({error.strerror}): check its path and permissions"
    )
