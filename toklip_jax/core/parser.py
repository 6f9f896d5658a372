"""The parser of all commands: `--name=value` with dashes, and errors in one line.

Underscores in a flag's name are read as dashes, so that spellings of earlier versions stay valid.
"""

import argparse
import difflib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user

NAME = re.compile(r"(--?)([A-Za-z][\w-]*)(=.*)?", re.DOTALL)
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
NUMBERS = {"int": "a whole number", "float": "a number"}
# What argparse says of an argument, and how it is said here.
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_INVALID = re.compile(r"argument (\S+): invalid (\w+) value: (.*)")
_CHOICE = re.compile(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", re.DOTALL)
_OWN = re.compile(r"argument (\S+): (expected .*, got .*)", re.DOTALL)  # of a type below
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")


def not_negative(text: str) -> int:
    """Reads a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def file_path(text: str) -> pathlib.Path:
    """Reads a path, with its "~" expanded; an empty one would stand for the current directory."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return expand_user(text)


class Parser(argparse.ArgumentParser):
    """Reads the arguments of a command.

    Raises:
        UserError: arguments that are wrong, in one line.
        SystemExit: help was asked for, and is printed.
    """

    def __init__(self, prog: str, description: str | None = None, **options: Any):
        options.setdefault("formatter_class", _Help)
        self._other_names: dict[str, str] = {}
        super().__init__(prog, description=description, allow_abbrev=False, **options)

    def flag(
        self, name: str, help: str, *, also_called: Sequence[str] = (), **options: Any
    ) -> None:
        """Adds a flag that takes a value, `--name=VALUE`; `options` are argparse's.

        Args:
            also_called: its names in other packages, which are refused with this one's.
        """
        self.add_argument(f"--{name}", help=help, **options)
        self._other_names |= {f"--{other}": f"--{name}" for other in also_called}

    def switch(self, name: str, help: str) -> None:
        """Adds a flag that is on where it is given; `--name=false` and `--noname` turn it off."""
        self.add_argument(f"--{name}", action="store_true", help=help)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Returns the values of a command's arguments, without the command's name."""
        arguments = list(map(str, arguments))
        found, rest = self.parse_known_args(arguments)
        expect_given_once(arguments, self._repeatable())
        if rest:
            self._refuse(rest)
        return found

    def parse_known_args(self, args=None, namespace=None):
        if not self.subcommands():
            args = [self._plain(argument) for argument in args]
            args = [argument for argument in args if argument is not None]
            if "" in args:
                raise UserError(
                    "expected no empty argument, got '': leave it out, or see whether a variable "
                    "of the shell is empty"
                )
            self._expect_known(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found wrong."""
        if found := _REQUIRED.fullmatch(message):
            shown = " and ".join(map(_with_value, found[1].split(", ")))
            raise UserError(f"expected {shown}, got none: see {self.prog} --help")
        if found := _INVALID.fullmatch(message):
            kind = NUMBERS.get(found[2], f"a {found[2]}")
            raise UserError(f"expected {kind} for {found[1]}, got {found[3]}")
        if found := _CHOICE.fullmatch(message):
            choices = [choice.strip(" '") for choice in found[3].split(",")]
            hint = _nearest(found[2].strip("'"), choices)
            raise UserError(
                f"expected one of {', '.join(choices)} for {found[1]}, got {found[2]}{hint}"
            )
        if found := _NO_VALUE.fullmatch(message):
            raise UserError(f"expected a value, as {found[1]}=..., got none")
        if found := _OWN.fullmatch(message):
            raise UserError(f"in {found[1]}, {found[2]}")
        raise UserError(message)

    def format_usage(self) -> str:
        return f"usage: {self._shape()}\n"

    def format_help(self) -> str:
        return super().format_help().replace("%(shape)s", self._shape())

    def options(self) -> list[argparse.Action]:
        """Returns the flags that help shows."""
        return [a for a in self._actions if a.option_strings and a.help != argparse.SUPPRESS]

    def arguments(self) -> list[argparse.Action]:
        """Returns the arguments that are no flags."""
        return [action for action in self._actions if not action.option_strings]

    def _shape(self):
        """The command with the names of its arguments, as `toklip decode IDS OUT [FLAGS]`."""
        names = [a.metavar or a.dest.upper() for a in self.arguments()]
        return " ".join((self.prog, *names, *(["[FLAGS]"] if len(self.options()) > 1 else [])))

    def subcommands(self) -> dict[str, "Parser"]:
        """Returns the parsers of the commands within this one, by name."""
        found = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= action.choices
        return found

    def _repeatable(self):
        """Names of flags that collect their values, as `expect_given_once` takes them."""
        parsers = (self, *self.subcommands().values())
        return {a.dest for p in parsers for a in p._actions if isinstance(a, _COLLECTING)}

    def _plain(self, argument):
        """A flag with dashes in its name, and a switch without a value; None where it is off."""
        found = NAME.fullmatch(argument)
        if not found or (len(found[2]) == 1 and found[1] == "-"):
            return argument
        name, value = found[2].replace("_", "-"), found[3] or ""
        switches = [a for a in self._actions if a.nargs == 0]
        known = {string.removeprefix("--") for a in switches for string in a.option_strings}
        for prefix in ("no-", "no"):
            if not value and name.removeprefix(prefix) in known and name not in known:
                return None
        if name in known and value[1:].lower() in (*TRUE, *FALSE):
            return f"--{name}" if value[1:].lower() in TRUE else None
        return f"--{name}{value}"

    def _expect_known(self, arguments):
        """Checks the names of flags, before argparse asks for those that are missing."""
        known = [string for action in self._actions for string in action.option_strings]
        for argument in arguments:
            if argument == "--":
                return
            found = NAME.fullmatch(argument)
            if found and (name := f"{found[1]}{found[2]}") not in known:
                other = self._other_names.get(name)
                near = f": did you mean {other}?" if other else _nearest(name, known)
                hint = near or f": see {self.prog} --help"
                raise UserError(f"expected a flag of {self.prog}, got {name}{hint}")

    def _refuse(self, rest):
        names = [a.metavar or a.dest.upper() for a in self.arguments()]
        expected = f"{' and '.join(names)} and flags" if names else "flags"
        raise UserError(
            f"expected {expected} only, got {' '.join(rest)!r}: write --name=value, and quote a "
            f"pattern, of which the shell otherwise makes several arguments"
        )


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with `--name=VALUE`, at most 100 columns wide."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=32, width=100)

    def _format_usage(self, usage, actions, groups, prefix):
        return "usage: %(shape)s\n\n"

    def _format_action_invocation(self, action):
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        default = action.dest.upper()
        value = self._format_args(action, default)
        return ", ".join(f"{string}={value}" for string in action.option_strings)

    def _get_help_string(self, action):
        help = action.help or ""
        is_shown = action.option_strings and action.nargs != 0 and "default" not in help
        if is_shown and action.default not in (None, "", argparse.SUPPRESS, []):
            help += " (default: %(default)s)"
        return help


_COLLECTING = (argparse._AppendAction,)


def _nearest(name, names):
    near = difflib.get_close_matches(name, names, 1)
    return f": did you mean {near[0]}?" if near else ""


def _with_value(name):
    return f"{name}=..." if name.startswith("-") else name
