"""Plans a training step on hardware you don't have:

    python -m toklip_jax.plan --config=configs/toklip_s_256.py --topology=v5e:16x16

compiles the step of a config's stage, full size, for a TPU topology (with libtpu installed; no TPU
is needed) or, without `--topology`, for the devices at hand. Nothing is read, initialised or run:
parameters and batches are shapes.
"""

import dataclasses
import functools
import json
import math

import jax
from absl import flags

from toklip_jax.cli import command_line
from toklip_jax.core.errors import UserError
from toklip_jax.planning.plan import (
    FAST,
    largest_batch,
    plan,
    reduce_compile_effort,
    topology_devices,
)
from toklip_jax.planning.report import report


def main(argv: list[str]) -> int:
    """Parses, plans, prints; returns the exit status: 0, or 2 for what the user can fix."""
    return command_line.run(argv, _parse, _prepare, is_connected=False)


def _parse(argv):
    return command_line.parse(argv, _define, ("config",), __doc__)


def _prepare(values, experiment):
    if math.isnan(values.effort):  # which is within all bounds of flags
        raise UserError(f"expected --effort from -1 to 1, got {values.effort}")
    return functools.partial(_plan, experiment, values)


def _plan(experiment, values):
    reduce_compile_effort(values.effort)
    if values.topology:
        jax.config.update("jax_platforms", "cpu")  # leave devices that are here alone
    devices = topology_devices(values.topology) if values.topology else jax.devices()

    def try_batch(batch_size):
        return plan(experiment, devices, stage=values.stage, batch_size=batch_size)

    found = try_batch(0)
    if found is None:
        raise UserError(
            "expected the step to fit its devices, got out of memory: take a smaller batch_size, "
            "more chunks (loop.accumulation) or a larger mesh.fsdp"
        )
    print(json.dumps(dataclasses.asdict(found)) if values.json else report(found))
    if values.search:
        ways = found.mesh["data"] * found.mesh["fsdp"] * found.accumulation
        print(f"\nlargest batch found to fit: {largest_batch(try_batch, found, ways)}")


def _define(values):
    flags.DEFINE_string("topology", "", "a TPU topology such as v5e:16x16", flag_values=values)
    flags.DEFINE_string(
        "stage", "", "a stage of the config; by default its last", flag_values=values
    )
    flags.DEFINE_float(
        "effort",
        FAST,
        "the compiler's effort to optimise, -1 to 1; a run has 0",
        lower_bound=-1.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "print numbers for programs", flag_values=values)
    flags.DEFINE_bool(
        "search", False, "look for the largest batch: up to three more compiles", flag_values=values
    )
