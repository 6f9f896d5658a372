"""The command line: `python -m toklip_jax.main --config=configs/demo.py --workdir=runs/demo`."""

import logging
import os
import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from toklip_jax import compile_cache, distributed
from toklip_jax.run import run
from toklip_jax.training.faults import Preempted

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: a launcher runs the command again


def main(argv: list[str]) -> int:
    """Parses, then runs; returns the exit status.

    0, or 2 for what the user can mend, or PREEMPTED: the same command goes on from there.
    """
    # Set before any device is touched: TensorFlow-style start-up chatter helps nobody.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        values = parse(argv)
    except ValueError as error:
        return _report(error)
    try:
        profile = _steps(values.profile)
        compile_cache.enable()
        distributed.start(**values.config.get("distributed", {}))
        run(
            *(values.config, values.workdir, values.mode, values.restart),
            values.allow_config_change,
            profile,
        )
    except distributed.StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1  # not 2: another try may do
    except Preempted as error:
        print(f"preempted: {error}; the same command goes on from there", file=sys.stderr)
        return PREEMPTED
    except (ValueError, OSError, FloatingPointError) as error:
        if values.traceback:
            raise
        return _report(error)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from what was saved", file=sys.stderr)
        return 130  # the shell's status of an interrupted command
    return 0


def _report(error):
    print(f"error: {error}", file=sys.stderr)
    return 2


def parse(argv: list[str]) -> flags.FlagValues:
    """Returns the values of the flags, `config` among them.

    Raises:
        ValueError: a flag or a config that is wrong, in one line.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "a configs/*.py; --config.a.b=value overrides a field", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "where the run lives", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "train, or eval only", flag_values=values)
    flags.DEFINE_bool("traceback", False, "show where an error came from", flag_values=values)
    flags.DEFINE_bool(
        "allow_config_change", False, "go on with a run of another config", flag_values=values
    )
    flags.DEFINE_string("profile", "", "FIRST:LAST: steps to profile", flag_values=values)
    flags.DEFINE_bool("restart", False, "delete the workdir's run first", flag_values=values)
    # ml_collections looks for overrides in sys.argv, whatever it is called with.
    kept, sys.argv = sys.argv, argv
    try:
        rest = values(argv)
    except flags.Error as error:
        raise ValueError(_one_line(error)) from error
    except Exception as error:  # the config's own code runs here, and may raise anything
        # Of a mistyped field, ml_collections names the nearest: "Did you mean ...?"
        raise ValueError(f"in --config: {type(error).__name__}: {_one_line(error)}") from error
    finally:
        sys.argv = kept
    if len(rest) > 1:
        raise ValueError(f"expected flags only, got {' '.join(rest[1:])!r}")
    for name in ("config", "workdir"):
        if values[name].value is None:
            raise ValueError(f"expected --{name}=..., got none")
    if not isinstance(values.config, ConfigDict):  # ml_collections puts off its own error
        name = config_flags.get_config_filename(values["config"])
        raise ValueError(f"expected --config to name a Python file, found none at {name}")
    return values


def _steps(text):
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"expected --profile=FIRST:LAST with FIRST below LAST, got {text!r}")
    return int(found[1]), int(found[2])


def _one_line(error):
    text = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.replace("\\n", " ").replace("\\'", "'").split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv))
