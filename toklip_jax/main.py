"""The command line: `python -m toklip_jax.main --config=configs/demo.py --workdir=runs/demo`."""

import logging
import os
import sys

from absl import flags
from ml_collections import config_flags

from toklip_jax.run import run


def main(argv: list[str]) -> int:
    """Parses, then runs; returns the exit status: 0, or 2 for what the user can mend."""
    # Set before any device is touched: TensorFlow-style start-up chatter helps nobody.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        values = _parse(argv)
        run(
            values.config,
            values.workdir,
            mode=values.mode,
            restart=values.restart,
        )
    except (ValueError, FileNotFoundError, FileExistsError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "a configs/*.py; --config.a.b=value overrides a field", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "where the run lives", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "train, or eval only", flag_values=values)
    flags.DEFINE_bool("restart", False, "delete the workdir's run first", flag_values=values)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise ValueError(_first_line(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        # ml_collections names the nearest field: "Did you mean ...?"
        raise ValueError(f"in --config: {_first_line(error)}") from error
    if len(rest) > 1:
        raise ValueError(f"expected flags only, got {' '.join(rest[1:])!r}")
    for name in ("config", "workdir"):
        if values[name].value is None:
            raise ValueError(f"expected --{name}=..., got none")
    return values


def _first_line(error):
    return str(error.args[0] if error.args else error).strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
