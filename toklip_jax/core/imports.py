"""Imports of what an extra may not have installed: one line says which."""

import importlib
import types

from toklip_jax.core.errors import UserError, exit_status
from toklip_jax.core.extras import line_for_missing


def import_extra(name: str) -> types.ModuleType:
    """Returns a module that an extra installs.

    Raises:
        UserError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if line := line_for_missing(error):
            raise UserError(line) from error
        raise


def start_command(module: str, arguments: list[str]) -> int:
    """Imports a command's module, calls its `main`, and returns the exit status.

    An extra that the command's imports need and that is missing is one line, and a user's error.
    """
    commands = []
    status = exit_status(lambda: commands.append(importlib.import_module(module)))
    return status or commands[0].main(arguments)
