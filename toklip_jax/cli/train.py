"""Trains the stages of a config, evaluates, and writes a report; run again, it continues:

python -m toklip_jax.main --config=configs/demo.py --workdir=runs/demo
"""

import functools
import re

from absl import flags

from toklip_jax.cli import command_line
from toklip_jax.core.errors import UserError
from toklip_jax.run.run import run


def main(argv: list[str]) -> int:
    """Parses, then runs; returns the exit status (see `core.errors`)."""
    return command_line.run(argv, parse, _prepare)


def parse(argv: list[str]) -> flags.FlagValues:
    """Returns the values of the flags, `config` among them.

    Raises:
        ValueError: a flag or a config that is wrong, in one line.
    """
    return command_line.parse(argv, _define, ("config", "workdir"), __doc__)


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


def _define(values):
    flags.DEFINE_string("workdir", None, "where the run is kept", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "train, or eval only", flag_values=values)
    flags.DEFINE_bool(
        "allow_config_change", False, "continue a run of another config", flag_values=values
    )
    flags.DEFINE_string("profile", "", "FIRST:LAST: steps to profile", flag_values=values)
    flags.DEFINE_bool("restart", False, "delete the workdir's run first", flag_values=values)


def _steps(text):
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"expected --profile=FIRST:LAST with FIRST below LAST, got {text!r}")
    return int(found[1]), int(found[2])
