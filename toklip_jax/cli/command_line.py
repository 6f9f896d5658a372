"""Common parts of the commands: flags, one of them a config; errors in one line; exit statuses."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from toklip_jax.cli.overrides import with_whole_sections
from toklip_jax.core import compile_cache, large_pages
from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import (
    INTERRUPTED,
    PREEMPTED,
    SUCCESS,
    Preempted,
    TryAgain,
    UserError,
    exit_status,
)
from toklip_jax.experiment import Experiment, read_experiment
from toklip_jax.parallel import start
from toklip_jax.parallel.preemption import stopping_at_once

RETRY = 1  # a failure to start: another try may succeed
TRACEBACK = ("--traceback", "-traceback", "--traceback=true")
CONFIG = re.compile(r"(--?config=)(~.*)")  # shells leave the ~ in --config=~/x.py
HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


def quiet() -> None:
    """Silences the libraries' own log lines; call it before any device is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)


def parse(
    argv: list[str],
    define: Callable[[flags.FlagValues], None],
    required: Sequence[str],
    about: str,
) -> flags.FlagValues:
    """Returns the values of the flags: `config`, `traceback`, and what `define` adds.

    Args:
        about: a description of the command, for `--help`.

    Raises:
        ValueError: in one line: a wrong flag or config, or one of `required` that is missing.
        SystemExit: help was asked for, and is printed.
    """
    if any(argument in HELP for argument in argv[1:]):
        print(_help(about, _flags(define)))
        raise SystemExit(SUCCESS)
    expect_given_once(argv[1:])
    argv = [CONFIG.sub(lambda found: found[1] + os.path.expanduser(found[2]), a) for a in argv]
    as_in_file = _flags()
    _read(as_in_file, argv, known_only=True)
    if as_in_file.config is not None:
        argv = with_whole_sections(argv, as_in_file.config.to_dict())
    values = _flags(define, argv)
    rest = _read(values, argv)
    if len(rest) > 1:
        raise UserError(f"expected flags only, got {' '.join(rest[1:])!r}")
    for name in required:
        if values[name].value is None:
            raise UserError(f"expected --{name}=..., got none")
    return values


def experiment_of(values: flags.FlagValues) -> Experiment | None:
    """Returns the experiment of the flags' config, or None without a config.

    Raises:
        UserError: the config's errors, all of them.
    """
    return None if values["config"].value is None else read_experiment(values.config)


def run(
    argv: list[str],
    parse: Callable[[list[str]], flags.FlagValues],
    prepare: Callable[[flags.FlagValues, Experiment | None], Callable[[], None]],
    *,
    is_connected: bool = True,
) -> int:
    """Runs a command from its flags to its exit status (see `core.errors`).

    Args:
        parse: returns the values of the flags.
        prepare: checks them, and returns what is to be done.
        is_connected: whether that is done together with the other processes of the config.
    """
    quiet()
    has_traceback = any(flag in argv for flag in TRACEBACK)

    def command() -> int | None:
        values = parse(argv)
        experiment = experiment_of(values)
        work = prepare(values, experiment)
        return run_command(work, experiment) if is_connected else work()

    return exit_status(command, has_traceback)


def run_command(work: Callable[[], None], experiment: Experiment | None) -> int:
    """Connects the processes of a config, calls `work`, and returns the exit status.

    SIGTERM ends it with the status `PREEMPTED`, wherever it is.
    """
    try:
        with stopping_at_once():
            large_pages.say_if_used()
            compile_cache.enable()
            start.start(experiment.processes if experiment else None)
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


def _flags(define: Callable | None = None, argv: Sequence[str] = ()) -> flags.FlagValues:
    """The flags of a command, or `config` alone; its fields are overridden as `argv` says."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "a configs/*.py; --config.a.b=value overrides a field",
        flag_values=values,
        sys_argv=list(argv),
        lock_config=False,
        accept_new_attributes=True,  # `read_experiment` checks all names, and knows the nearest
    )
    if define is not None:
        flags.DEFINE_bool("traceback", False, "show where an error came from", flag_values=values)
        define(values)
    return values


def _read(values, argv, known_only=False) -> list[str]:
    """Sets the flags, and returns the arguments that are none."""
    try:
        rest = values(argv, known_only)
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except (Exception, SystemExit) as error:  # the config's own code, which may raise anything
        raise UserError(f"in --config: {type(error).__name__}: {_one_line(error)}") from error
    # ml_collections defers its own error.
    if values["config"].value is not None and not isinstance(values.config, ConfigDict):
        name = config_flags.get_config_filename(values["config"])
        if os.path.isfile(name):
            raise UserError(f"expected get_config() in {name} to return a ConfigDict, got another")
        raise UserError(f"expected --config to name a Python file, found none at {name}")
    return rest


def _help(about, values) -> str:
    """Describes a command and its flags, for people."""
    lines = [about.strip(), "", "flags:"]
    for name in values:
        default = values[name].default
        note = "" if default in (None, "", False) else f" (default: {default})"
        lines.append(f"  --{name}: {values[name].help}{note}")
    return "\n".join(lines)


def _one_line(error):
    text = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split()) or type(error).__name__
