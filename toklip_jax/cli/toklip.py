"""The command `toklip COMMAND`: finds the command and runs it."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence

from toklip_jax.cli.commands import COMMANDS, Command
from toklip_jax.core.errors import SUCCESS, USER_ERROR, UserError, exit_status
from toklip_jax.core.fields import check_name
from toklip_jax.core.large_pages import use_large_pages

HELP = ("-h", "--help", "help")
BROKEN_PIPE = 141  # the shell's status of a command whose reader has gone, such as `| head`


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `toklip` with arguments, by default those of the process; returns the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or HELP[:1]
    if name in HELP:
        print(_help())
        return SUCCESS
    if name == "--version":
        print(f"toklip {importlib.metadata.version('toklip_jax')}")
        return SUCCESS
    found: list[Command] = []
    if exit_status(lambda: found.append(_find(name))):
        return USER_ERROR
    if found[0].has_large_memory and arguments is None:
        use_large_pages()  # may start the command again
    try:
        return found[0].main(rest)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else its end fails too
        return BROKEN_PIPE


def _find(name) -> Command:
    commands = {command.name: command for command in COMMANDS}
    if name.startswith("-"):
        raise UserError(f"expected a command before flags, got {name}: see toklip --help")
    return commands[check_name("a command", name, commands)]


def _help():
    width = max(len(command.name) for command in COMMANDS)
    return "\n".join(
        [
            "usage: toklip COMMAND [ARGUMENTS] [--name=VALUE]",
            "",
            "TokLIP: images to discrete ids with meaning, and back.",
            "",
            "commands:",
            *(f"  {command.name:{width}}  {command.about}" for command in COMMANDS),
            "",
            "toklip COMMAND --help says more of each, toklip --version which version this is.",
        ]
    )
