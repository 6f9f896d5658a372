"""Evaluates models as a config says: a run that is finished, or weights that `models` names:

toklip eval --config=evaluate --workdir=runs/evaluated --config.models.toklip=toklip_s_256 \\
    --config.evaluate="('imagenet',)"

`toklip train --mode=eval` is the same command.
"""

import functools
from collections.abc import Sequence

from toklip_jax.cli import command_line
from toklip_jax.core.parser import Parser, file_path
from toklip_jax.run.run import run


def main(arguments: Sequence[str]) -> int:
    """Parses, then evaluates; returns the exit status (see `core.errors`)."""
    return command_line.run(arguments, parser(), _prepare)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = command_line.config_parser("eval", __doc__)
    about = "where the run and its results are kept"
    found.flag("workdir", about, required=True, type=file_path)
    found.switch("allow-config-change", "evaluate a run of another config")
    return found


def _prepare(values, experiment):
    return functools.partial(
        run,
        experiment,
        values.workdir,
        mode="eval",
        allow_config_change=values.allow_config_change,
    )
