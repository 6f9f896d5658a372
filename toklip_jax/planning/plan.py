"""Plans a training step: the memory and time it takes on hardware you don't have.

The step of a config's stage is compiled, full size, for a TPU topology or for the devices at hand.
Nothing is read, initialised or run: parameters and batches are shapes.
"""

import collections
import dataclasses
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.costs.chips import Chip, chip
from toklip_jax.costs.flops import count_flops
from toklip_jax.experiment import Experiment
from toklip_jax.parallel.sharding import batch_ways, make_mesh, shardings
from toklip_jax.planning.hlo import find_collectives, memory_traffic
from toklip_jax.planning.step import Step, build_step, find_stage
from toklip_jax.training.step import jit_step

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
FAST = -1.0  # the least that XLA's effort in optimisation can be
GIB, MIB = 2**30, 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step, as compiled. Bytes and FLOPs are those of one chip unless said otherwise.

    Attributes:
        device_kind, chips, mesh, batch, accumulation: what it was compiled for; the global batch.
        parameters: bytes of trainable parameters, and of their running means.
        frozen: bytes of frozen parameters.
        optimizer: bytes of the optimizer's state.
        activations: bytes of all that lives within the step: activations, gradients, gathered
            parameters.
        peak: bytes of all these, the batch and the program.
        hbm: the chip's memory, 0 where unknown.
        model_flops: FLOPs of the whole batch by the mathematics, without rematerialisation.
        flops: FLOPs as compiled: with rematerialisation, float32 products weighed by their passes.
        traffic: bytes read and written, estimated (`hlo.memory_traffic`).
        collectives: kind to (number a step, bytes sent over the links).
        largest_gather: (bytes, what for) of the largest single all-gather.
        seconds: kind to time at the chip's peak: "compute", "memory", "links"; empty where the
            chip is unknown. A step takes the largest at least, and their sum if none overlapped.
    """

    device_kind: str
    chips: int
    mesh: dict[str, int]
    batch: int
    accumulation: int
    parameters: int
    frozen: int
    optimizer: int
    activations: int
    peak: int
    hbm: int
    model_flops: int
    flops: float
    traffic: int
    collectives: dict[str, tuple[int, float]]
    largest_gather: tuple[int, str]
    seconds: dict[str, float]

    @property
    def step_seconds(self) -> float:
        """The roofline: the largest of `seconds`."""
        return max(self.seconds.values(), default=0.0)

    @property
    def utilisation(self) -> float:
        """Model FLOPs of the chips' peak in the roofline's time: the most that can be reached."""
        known_chip = chip(self.device_kind)
        if known_chip is None:
            return 0.0
        return self.model_flops / self.chips / known_chip.bf16_flops / self.step_seconds


def plan(
    experiment: Experiment,
    devices: list,
    *,
    stage: str = "",
    batch_size: int = 0,
    accumulation: int = 0,
) -> Plan | None:
    """Compiles the step of one of a config's stages for `devices`; None if it doesn't fit them.

    Args:
        experiment: the config that was read.
        devices: the devices to compile for; they need not exist (`topology_devices`).
        stage: the config's last unless given.
        batch_size: the batch of all devices together, the stage's unless given.
        accumulation: chunks of the batch, the stage's unless given.

    Raises:
        ValueError: from the config; says what to change.
    """
    mesh = make_mesh(experiment.mesh, devices)
    step = build_step(
        experiment,
        find_stage(experiment, stage),
        ways=batch_ways(mesh),
        batch_size=batch_size,
        accumulation=accumulation,
    )
    compiled = _compile(step, mesh)
    return compiled and _measure(step, compiled, mesh, devices)


def _compile(step: Step, mesh):
    """Returns the compiled step, or None if it doesn't fit."""
    with jax.set_mesh(mesh):
        jitted = jit_step(step.function(), mesh, step.state, step.frozen, step.objective.sharding)
        try:
            return jitted.lower(*step.arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY in str(error):
                return None
            raise


def _measure(step: Step, compiled, mesh, devices) -> Plan:
    spec, rules = chip(devices[0].device_kind), step.objective.sharding
    passes = float(spec.float32_passes) if spec else 1.0
    flops = count_flops(step.function(), *step.arguments, float32_passes=passes) / len(devices)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    collectives, traffic = find_collectives(text), memory_traffic(text)
    gathers = [c for c in collectives if c.kind == "all-gather"]
    largest = max(gathers, key=lambda c: c.size, default=None)
    state = step.state

    def held(tree):
        return _bytes_on_a_device(tree, shardings(tree, mesh, rules))

    return Plan(
        device_kind=devices[0].device_kind,
        chips=len(devices),
        mesh=dict(mesh.shape),
        batch=jax.tree.leaves(step.batch)[0].shape[0],
        accumulation=step.accumulation,
        parameters=held((state.params, state.ema)),
        frozen=held(step.frozen),
        optimizer=held(state.opt_state),
        activations=memory.temp_size_in_bytes,
        peak=_peak(memory),
        hbm=spec.hbm_bytes if spec else 0,
        model_flops=step.model_flops(),
        flops=flops,
        traffic=traffic,
        collectives=_by_kind(collectives),
        largest_gather=(largest.size, largest.where) if largest else (0, ""),
        seconds=_seconds(spec, flops, traffic, sum(c.sent for c in collectives)),
    )


def largest_batch(try_batch: Callable[[int], Plan | None], smallest: Plan, ways: int) -> int:
    """Returns the largest batch found to fit, a multiple of `ways`, within three compiles.

    The memory of activations grows linearly with the batch: the line through two batches says where
    to look, and a compile there confirms it.
    """
    limit = smallest.hbm
    if not limit:
        return 0
    best, other = smallest, try_batch(2 * smallest.batch)
    if other is not None:
        best = other
        slope = (other.peak - smallest.peak) / smallest.batch
    else:
        slope = smallest.activations / smallest.batch
    guess = smallest.batch + int((0.95 * limit - smallest.peak) / max(slope, 1.0))
    for batch in (guess // ways * ways, int(0.85 * guess) // ways * ways):
        if batch <= best.batch:
            break
        if found := try_batch(batch):
            return found.batch
    return best.batch


def reduce_compile_effort(effort: float = FAST) -> None:
    """Makes XLA for TPUs compile in an eighth of the time, from here on in this process.

    Memory and what collectives gather are about the same; less is fused and nothing is kept on the
    chip between operations, so that `Plan.traffic` is two to three times a run's (docs/scaling.md).
    """
    jax.config.update("jax_exec_time_optimization_effort", effort)


def topology_devices(name: str) -> list:
    """Returns the devices of a TPU topology such as "v5e:16x16", which need not exist.

    Raises:
        ValueError: libtpu is not installed or doesn't know it.
    """
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else it looks for a Cloud TPU's metadata
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device is taken: no lock needed
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except Exception as error:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"expected libtpu to plan for {name}, found none: pip install 'jax[tpu]' (no TPU "
                f"is needed), or leave --topology out"
            ) from error
        raise UserError(
            f"expected a TPU topology that libtpu knows, such as v5e:16x16, v6e:16x16 or "
            f"v5p:4x4x8, got {name!r}: {str(error).splitlines()[0]}"
        ) from error


def _bytes_on_a_device(tree: Any, placement: Any) -> int:
    """Returns the bytes of a tree's part on one device."""

    def one(leaf, sharding):
        part = sharding.shard_shape(leaf.shape)
        return jax.ShapeDtypeStruct(part, leaf.dtype).size * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, tree, placement)))


def _peak(memory) -> int:
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes


def _by_kind(collectives):
    found = collections.defaultdict(lambda: (0, 0.0))
    for c in collectives:
        number, sent = found[c.kind]
        found[c.kind] = (number + c.times, sent + c.sent)
    return dict(sorted(found.items()))


def _seconds(the_chip: Chip | None, flops, traffic, sent) -> dict[str, float]:
    if the_chip is None:
        return {}
    return {
        "compute": flops / the_chip.bf16_flops,
        "memory": traffic / the_chip.hbm_bandwidth,
        "links": sent / the_chip.interconnect,
    }
