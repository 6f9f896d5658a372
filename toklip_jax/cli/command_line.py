"""What the project's commands share: flags with a config among them, errors in a line, statuses."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from toklip_jax.core import compile_cache
from toklip_jax.parallel import start as distributed

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: a launcher runs the command again


def quiet() -> None:
    """Keeps libraries from chattering; to be called before any device is touched."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)


def parse(
    argv: list[str], define: Callable[[flags.FlagValues], None], required: Sequence[str]
) -> flags.FlagValues:
    """Returns the values of the flags: `config`, `traceback`, and what `define` adds.

    Raises:
        ValueError: a flag or a config that is wrong, or one of `required` that is not given, in
            one line.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "a configs/*.py; --config.a.b=value overrides a field", flag_values=values
    )
    flags.DEFINE_bool("traceback", False, "show where an error came from", flag_values=values)
    define(values)
    # ml_collections looks for overrides in sys.argv, whatever it is called with.
    kept, sys.argv = sys.argv, argv
    try:
        rest = values(argv)
    except flags.Error as error:
        raise ValueError(_one_line(error)) from error
    except Exception as error:  # the config's own code runs here, and may raise anything
        # Of a mistyped field, ml_collections names the nearest: "Did you mean ...?"
        raise ValueError(f"in --config: {type(error).__name__}: {_one_line(error)}") from error
    finally:
        sys.argv = kept
    if len(rest) > 1:
        raise ValueError(f"expected flags only, got {' '.join(rest[1:])!r}")
    for name in required:
        if values[name].value is None:
            raise ValueError(f"expected --{name}=..., got none")
    # ml_collections puts off its own error.
    if values["config"].value is not None and not isinstance(values.config, ConfigDict):
        name = config_flags.get_config_filename(values["config"])
        raise ValueError(f"expected --config to name a Python file, found none at {name}")
    return values


def run_command(
    work: Callable[[], None],
    config: ConfigDict | None,
    preempted: type[Exception],
    has_traceback: bool = False,
) -> int:
    """Connects the processes that `config` says there are, works, and returns the exit status.

    0, or 2 for what the user can mend, or PREEMPTED: the same command goes on from there.

    Args:
        preempted: what `work` raises when it was told to stop and has saved.
        has_traceback: let what the user can mend through instead.
    """
    try:
        compile_cache.enable()
        distributed.start(**(config or {}).get("distributed", {}))
        work()
    except distributed.StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1  # not 2: another try may do
    except preempted as error:
        print(f"preempted: {error}; the same command goes on from there", file=sys.stderr)
        return PREEMPTED
    except (ValueError, OSError, FloatingPointError) as error:
        if has_traceback:
            raise
        return report(error)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from what was saved", file=sys.stderr)
        return 130  # the shell's status of an interrupted command
    return 0


def report(error: Exception) -> int:
    """Prints an error that the user can mend, and returns its exit status."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def _one_line(error):
    text = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split()) or type(error).__name__
