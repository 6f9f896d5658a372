"""Common parts of the commands: a config and its flags; errors in one line; exit statuses."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from toklip_jax.cli.config_help import describe_fields
from toklip_jax.cli.config_names import config_file, packaged_configs
from toklip_jax.cli.overrides import with_whole_sections
from toklip_jax.cli.plain_log import use_plain_lines
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
from toklip_jax.core.parser import Parser
from toklip_jax.experiment import Experiment, read_experiment
from toklip_jax.parallel import start
from toklip_jax.parallel.preemption import stopping_at_once

RETRY = 1  # a failure to start: another try may succeed
TRACEBACK = ("--traceback", "-traceback", "--traceback=true")
CONFIG = "--config"
OF_CONFIG = re.compile(r"\A--?((?:no)?config(?:[.=].*)?)\Z", re.DOTALL)
HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


def quiet() -> None:
    """Silences the libraries' own log lines; call it before any device is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)
    use_plain_lines()


def config_parser(name: str, about: str, is_required: bool = True) -> Parser:
    """Returns the parser of a command that takes a config; `parse` reads with it."""
    parser = plain_parser(name, about)
    parser.flag(
        "config",
        "a configs/*.py, or the name of one that the package has (see below); --config.a.b=VALUE "
        "sets a field, and --help lists the fields of the config that it is given with",
        required=is_required,
    )
    names = ", ".join(packaged_configs())
    parser.epilog = f"configs: {names}\noptions of a config follow a colon: --config=demo:vq=ibq"
    return parser


def plain_parser(name: str, about: str) -> Parser:
    """Returns the parser of a command, with the flags that all of them have."""
    parser = Parser(f"toklip {name}", about)
    parser.switch("traceback", "show where an error came from")
    return parser


def parse(arguments: Sequence[str], parser: Parser) -> argparse.Namespace:
    """Returns the values of a command's flags; `config` is a ConfigDict, or None without one.

    Args:
        arguments: without the command's name.
        parser: a `config_parser`.

    Raises:
        ValueError: in one line: a wrong flag or config, or one that is missing.
        SystemExit: help was asked for, and is printed.
    """
    arguments = _config_joined([OF_CONFIG.sub(r"--\1", argument) for argument in arguments])
    names = [a for a in arguments if a.startswith(f"{CONFIG}=")]
    if any(argument in HELP for argument in arguments):
        print(parser.format_help())
        if names:
            print(describe_fields(_read_config(names[:1]).to_dict()))
        raise SystemExit(SUCCESS)
    expect_given_once(arguments)
    if names:
        arguments = with_whole_sections(arguments, _read_config(names[:1]).to_dict())
    of_config = [argument for argument in arguments if OF_CONFIG.fullmatch(argument)]
    values = parser.read([a for a in arguments if a in names or a not in of_config])
    if of_config and not names:
        raise UserError(f"expected {CONFIG}=... with {of_config[0]}, got none")
    values.config = _read_config(of_config) if names else None
    return values


def experiment_of(values: argparse.Namespace) -> Experiment | None:
    """Returns the experiment of the flags' config, or None without a config.

    Raises:
        UserError: the config's errors, all of them.
    """
    return None if values.config is None else read_experiment(values.config)


def run(
    arguments: Sequence[str],
    parser: Parser,
    prepare: Callable[[argparse.Namespace, Experiment | None], Callable[[], None]],
    *,
    is_connected: bool = True,
) -> int:
    """Runs a command with a config from its arguments to its exit status (see `core.errors`).

    Args:
        prepare: checks the values of the flags, and returns what is to be done.
        is_connected: whether that is done together with the other processes of the config.
    """
    quiet()

    def command() -> int | None:
        values = parse(arguments, parser)
        experiment = experiment_of(values)
        work = prepare(values, experiment)
        return run_command(work, experiment) if is_connected else work()

    return exit_status(command, has_traceback=any(flag in arguments for flag in TRACEBACK))


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

    return exit_status(command, has_traceback=any(flag in arguments for flag in TRACEBACK))


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


def _config_joined(arguments):
    """The arguments, with `--config NAME` as one, and the file that the name stands for."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == CONFIG:
            joined[-1] = f"{CONFIG}={argument}"
        else:
            joined.append(argument)
    start = f"{CONFIG}="
    return [start + config_file(a[len(start) :]) if a.startswith(start) else a for a in joined]


def _read_config(arguments: Sequence[str]) -> ConfigDict:
    """Returns the config that `--config=...` names, with its fields as `--config.a.b=...` says."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "",
        flag_values=values,
        sys_argv=list(arguments),
        lock_config=False,
        accept_new_attributes=True,  # `read_experiment` checks all names, and knows the nearest
    )
    try:
        values(["", *arguments])
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except (Exception, SystemExit) as error:  # the config's own code, which may raise anything
        raise UserError(f"in --config: {type(error).__name__}: {_one_line(error)}") from error
    # ml_collections defers its own error.
    if not isinstance(values.config, ConfigDict):
        name = config_flags.get_config_filename(values["config"])
        if os.path.isfile(name):
            raise UserError(f"expected get_config() in {name} to return a ConfigDict, got another")
        raise UserError(
            f"expected --config to name a Python file, or one of {', '.join(packaged_configs())}, "
            f"found none at {name}"
        )
    return values.config


def _one_line(error):
    text = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split()) or type(error).__name__
