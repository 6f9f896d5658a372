"""Plans a training step on hardware you don't have:

    toklip plan --config=toklip_s_256 --topology=v5e:16x16

compiles the step of a config's stage, full size, for a TPU topology (with libtpu installed; no TPU
is needed) or, without `--topology`, for the devices at hand. Nothing is read, initialised or run:
parameters and batches are shapes.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence

import jax

from toklip_jax.cli import command_line
from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser
from toklip_jax.planning.plan import (
    FAST,
    largest_batch,
    plan,
    reduce_compile_effort,
    topology_devices,
)
from toklip_jax.planning.report import report


def main(arguments: Sequence[str]) -> int:
    """Parses, plans, prints; returns the exit status: 0, or 2 for what the user can fix."""
    return command_line.run(arguments, parser(), _prepare, is_connected=False)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = command_line.config_parser("plan", __doc__)
    found.flag("topology", "a TPU topology such as v5e:16x16", default="")
    found.flag("stage", "a stage of the config; by default its last", default="")
    found.flag(
        "effort",
        "the compiler's effort to optimise, -1 to 1; a run has 0",
        type=float,
        default=FAST,
    )
    found.switch("json", "print numbers for programs")
    found.switch("search", "look for the largest batch: up to three more compiles")
    return found


def _prepare(values, experiment):
    if not -1 <= values.effort <= 1:  # NaN fails too
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
