"""What all commands share: from arguments to an exit status, errors in one line.

Nothing of training is imported here: commands that only load a model need none of it.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from toklip_jax.cli.plain_log import use_plain_lines
from toklip_jax.core import compile_cache
from toklip_jax.core.errors import (
    INTERRUPTED,
    PREEMPTED,
    SUCCESS,
    Preempted,
    TryAgain,
    exit_status,
)
from toklip_jax.core.parser import Parser
from toklip_jax.parallel import start
from toklip_jax.parallel.preemption import stopping_at_once
from toklip_jax.parallel.start import ProcessesConfig

RETRY = 1  # a failure to start: another try may succeed
TRACEBACK = ("--traceback", "-traceback", "--traceback=true")


def quiet() -> None:
    """Silences the libraries' own log lines; call it before any device is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)
    use_plain_lines()


def plain_parser(name: str, about: str) -> Parser:
    """Returns the parser of a command, with the flags that all of them have."""
    parser = Parser(f"toklip {name}", about)
    parser.switch("traceback", "show where an error came from")
    return parser


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Returns whether errors of the user are to be raised too."""
    return any(flag in arguments for flag in TRACEBACK)


def run_plain(
    arguments: Sequence[str],
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    *,
    is_connected: bool = True,
) -> int:
    """Runs a command without a config from its arguments to its exit status.

    Args:
        parser: a `plain_parser`.
        work: does what the values of the flags say.
        is_connected: whether it may compute: compiled programs are kept, SIGTERM ends it, and
            processes that a scheduler started together are connected.
    """
    quiet()

    def command() -> int | None:
        values = parser.read(arguments)
        return run_command(lambda: work(values), None) if is_connected else work(values)

    return exit_status(command, has_traceback=wants_traceback(arguments))


def run_command(work: Callable[[], None], processes: ProcessesConfig | None) -> int:
    """Calls `work` and returns the exit status.

    Processes are connected first, as a config or the environment says. SIGTERM ends it with the
    status `PREEMPTED`, wherever it is.
    """
    try:
        with stopping_at_once():
            compile_cache.enable()
            start.start(processes)
            work()
    except start.StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return RETRY
    except Preempted as error:
        print(f"preempted: {error}; the same command continues from there", file=sys.stderr)
        return PREEMPTED
    except TryAgain as error:
        print(f"failed, and a retry may succeed: {error}; all is saved", file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt:
        print("\nstopped: the same command continues from what was saved", file=sys.stderr)
        return INTERRUPTED
    return SUCCESS
