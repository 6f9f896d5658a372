"""Trains the stages of a config, evaluates, and writes a report; run again, it continues:

toklip train --config=demo --workdir=runs/demo

`python -m toklip_jax.main` is the same command.
"""

import functools
import re
from collections.abc import Sequence

from toklip_jax.cli import command_line
from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser, file_path
from toklip_jax.run.run import MODES, run


def main(arguments: Sequence[str]) -> int:
    """Parses, then runs; returns the exit status (see `core.errors`)."""
    return command_line.run(arguments, parser(), _prepare)


def parse(arguments: Sequence[str]):
    """Returns the values of the flags, `config` among them.

    Raises:
        ValueError: a flag or a config that is wrong, in one line.
    """
    return command_line.parse(arguments, parser())


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = command_line.config_parser("train", __doc__)
    found.flag("workdir", "where the run is kept", required=True, type=file_path)
    found.flag("mode", "train, or eval only", default=MODES[0], choices=MODES)
    found.switch("restart", "delete the workdir's run first")
    found.switch("allow-config-change", "continue a run of another config")
    found.flag("profile", "steps to profile, as FIRST:LAST", default="")
    return found


def _prepare(values, experiment):
    return functools.partial(
        run,
        experiment,
        values.workdir,
        mode=values.mode,
        restart=values.restart,
        allow_config_change=values.allow_config_change,
        profile=_steps(values.profile),
    )


def _steps(text):
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"expected --profile=FIRST:LAST with FIRST below LAST, got {text!r}")
    return int(found[1]), int(found[2])
