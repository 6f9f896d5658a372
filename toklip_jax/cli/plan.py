"""What a training step takes on hardware you don't have:

    python -m toklip_jax.plan --config=configs/toklip_s_256.py --topology=v5e:16x16

compiles the step of a config's stage, full size, for a TPU topology (with libtpu installed; no TPU
is needed) or, without `--topology`, for the devices at hand. Nothing is read, initialised or run:
parameters and batches are shapes.
"""

import dataclasses
import json
import logging
import os
import sys

import jax
from absl import flags

from toklip_jax import main as command
from toklip_jax.planning.plan import (
    FAST,
    largest_batch,
    plan,
    reduce_compile_effort,
    topology_devices,
)
from toklip_jax.planning.report import report


def main(argv: list[str]) -> int:
    """Parses, plans, prints; returns the exit status: 0, or 2 for what the user can mend."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        own, config = _parse(argv)
        reduce_compile_effort(own.effort)
        if own.topology:
            jax.config.update("jax_platforms", "cpu")  # leave devices that are here alone
        devices = topology_devices(own.topology) if own.topology else jax.devices()
        found = plan(config, devices, own.stage)
        if found is None:
            stage = config[own.stage or config.stages[-1]]
            raise ValueError(
                f"expected the step to fit its devices, got out of memory at batch "
                f"{stage.batch_size}: take a smaller one, more chunks (loop.accumulation) or a "
                f"larger mesh.fsdp"
            )
        print(json.dumps(dataclasses.asdict(found)) if own.json else report(found))
        if own.search:
            ways = found.mesh["data"] * found.mesh["fsdp"] * found.accumulation

            def try_batch(batch):
                return plan(config, devices, own.stage, batch)

            print(f"\nlargest batch found to fit: {largest_batch(try_batch, found, ways)}")
    except (ValueError, AttributeError, KeyError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


def _parse(argv):
    """This command's own flags, then the config as `main` parses it."""
    own = flags.FlagValues()
    flags.DEFINE_string("topology", "", "a TPU topology such as v5e:16x16", flag_values=own)
    flags.DEFINE_string("stage", "", "of the config; its last unless given", flag_values=own)
    flags.DEFINE_float(
        "effort",
        FAST,
        "of the compiler's optimisation, -1 to 1; 0 is as a run has it",
        flag_values=own,
    )
    flags.DEFINE_bool("json", False, "print numbers for programs", flag_values=own)
    flags.DEFINE_bool(
        "search", False, "look for the largest batch: up to three more compiles", flag_values=own
    )
    rest = own(argv, known_only=True)
    return own, command.parse([*rest, "--workdir=."]).config
