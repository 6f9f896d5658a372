"""What the commands with a config share: its flags, its fields, and running what it says."""

import argparse
import os
import re
import textwrap
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from toklip_jax.cli.config_help import describe_fields
from toklip_jax.cli.config_names import config_file, packaged_configs
from toklip_jax.cli.overrides import with_whole_sections
from toklip_jax.cli.running import plain_parser, quiet, run_command, wants_traceback
from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import SUCCESS, UserError, exit_status
from toklip_jax.core.large_pages import say_if_used
from toklip_jax.core.lines import INDENT, MAX_COLUMNS
from toklip_jax.core.parser import Parser
from toklip_jax.experiment import Experiment, read_experiment

CONFIG = "--config"
OF_CONFIG = re.compile(r"\A--?((?:no)?config(?:[.=].*)?)\Z", re.DOTALL)
HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


def config_parser(name: str, about: str, is_required: bool = True) -> Parser:
    """Returns the parser of a command that takes a config; `parse` reads with it."""
    parser = plain_parser(name, about)
    parser.flag(
        "config",
        "a configs/*.py, or the name of one that the package has (see below); --config.a.b=VALUE "
        "sets a field, and --help lists the fields of the config that it is given with",
        required=is_required,
    )
    names = textwrap.fill(
        f"configs: {', '.join(packaged_configs())}", MAX_COLUMNS, subsequent_indent=INDENT
    )
    parser.epilog = f"{names}\noptions of a config follow a colon: --config=demo:vq=ibq"
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
        if not is_connected:
            return work()
        say_if_used()
        return run_command(work, experiment.processes if experiment else None)

    return exit_status(command, has_traceback=wants_traceback(arguments))


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
