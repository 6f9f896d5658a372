"""The modules that a run's config imports: they register its own sources and evaluations.

A workdir is data, perhaps somebody else's, so what its config names is not imported unasked: only
the package's own modules are; others are named on the command line.
"""

import importlib
import re
import sys
from collections.abc import Sequence

from toklip_jax.core.errors import UserError

OWN = "toklip_jax."
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def import_extensions(named_by_run: Sequence[str], allowed: Sequence[str] = ()) -> list[str]:
    """Imports the modules that a run needs, as far as that is allowed.

    Args:
        named_by_run: the config's `imports`.
        allowed: modules to import whether the run names them or not.

    Returns:
        A sentence for each module of the run that was left out, with the reason.

    Raises:
        ValueError: a module in `allowed` can't be imported.
    """
    for name in allowed:
        if reason := _import(name):
            raise UserError(f"expected a module to import, got {name!r} ({reason}): install it")
    notes = []
    for name in map(str, named_by_run):
        if name in allowed or name in sys.modules:
            continue
        if not name.startswith(OWN):
            notes.append(
                f"{name}, which the run's config imports, was not imported, as it is not part of "
                f"toklip_jax: if you trust it, add --import={name}."
            )
        elif reason := _import(name):
            notes.append(f"{name}, which the run's config imports, is missing ({reason}).")
    return notes


def _import(name) -> str:
    """Imports a module; returns why it can't be, or ""."""
    if not NAME.fullmatch(name):
        return "that is no module's name"
    try:
        importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return ""
