"""Common parts of the commands: flags, one of them a config; errors in one line; exit statuses."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from toklip_jax.core import compile_cache
from toklip_jax.core.errors import INTERRUPTED, PREEMPTED, SUCCESS, USER_ERROR
from toklip_jax.experiment import Experiment, read_experiment
from toklip_jax.parallel import start
from toklip_jax.training.faults import Preempted

RETRY = 1  # a failure to start: another try may succeed


def quiet() -> None:
    """Silences the libraries' own log lines; call it before any device is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)


def parse(
    argv: list[str], define: Callable[[flags.FlagValues], None], required: Sequence[str]
) -> flags.FlagValues:
    """Returns the values of the flags: `config`, `traceback`, and what `define` adds.

    Raises:
        ValueError: in one line: a wrong flag or config, or one of `required` that is missing.
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
        # For a mistyped field, ml_collections suggests the nearest: "Did you mean ...?"
        raise ValueError(f"in --config: {type(error).__name__}: {_one_line(error)}") from error
    finally:
        sys.argv = kept
    if len(rest) > 1:
        raise ValueError(f"expected flags only, got {' '.join(rest[1:])!r}")
    for name in required:
        if values[name].value is None:
            raise ValueError(f"expected --{name}=..., got none")
    # ml_collections defers its own error.
    if values["config"].value is not None and not isinstance(values.config, ConfigDict):
        name = config_flags.get_config_filename(values["config"])
        raise ValueError(f"expected --config to name a Python file, found none at {name}")
    return values


def experiment_of(values: flags.FlagValues) -> Experiment | None:
    """Returns the experiment of the flags' config, or None without a config.

    Raises:
        UserError: the config's errors, all of them.
    """
    return None if values["config"].value is None else read_experiment(values.config)


def run_command(
    work: Callable[[], None], experiment: Experiment | None, has_traceback: bool = False
) -> int:
    """Connects the processes of a config, calls `work`, and returns the exit status.

    Args:
        has_traceback: raise errors of the user, with their traceback, instead of printing a line.
    """
    try:
        compile_cache.enable()
        start.start(experiment.processes if experiment else None)
        work()
    except start.StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return RETRY
    except Preempted as error:
        print(f"preempted: {error}; the same command continues from there", file=sys.stderr)
        return PREEMPTED
    except (ValueError, OSError, FloatingPointError) as error:
        if has_traceback:
            raise
        return report(error)
    except KeyboardInterrupt:
        print("\nstopped: the same command continues from what was saved", file=sys.stderr)
        return INTERRUPTED
    return SUCCESS


def report(error: Exception) -> int:
    """Prints an error that the user can fix, and returns its exit status."""
    print(f"error: {error}", file=sys.stderr)
    return USER_ERROR


def _one_line(error):
    text = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split()) or type(error).__name__
