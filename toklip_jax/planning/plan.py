"""What a training step takes on machines that aren't there:

    python -m toklip_jax.plan --config=configs/toklip_s_256.py --topology=v5e:16x16

compiles the step of a config's stage, full size, for a TPU topology (with libtpu installed; no TPU
is needed) or, without `--topology`, for the devices at hand. Nothing is read, initialised or run:
parameters and batches are shapes.
"""

import collections
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.costs.chips import Chip, chip
from toklip_jax.costs.flops import count_flops
from toklip_jax.models.registry import named_size
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh, shardings
from toklip_jax.planning.hlo import find_collectives, memory_traffic
from toklip_jax.run.stages import STAGE_PREFIX, make_objective
from toklip_jax.tasks.toklip.cached import cached_rows, unused_parameters
from toklip_jax.tasks.toklip.objective import CACHED
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.objective import Objective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import cast_frozen, merge, partition, split
from toklip_jax.training.step import create_state, jit_step, make_step

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
        model_flops: of the whole batch, by the mathematics, nothing rematerialised.
        flops: as compiled: with rematerialisation, float32 products weighed by their passes.
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
    config: ConfigDict, devices: list, stage: str = "", batch: int = 0, accumulation: int = 0
) -> Plan | None:
    """Compiles the step of one of a config's stages for `devices`; None if it doesn't fit them.

    Args:
        config: what `configs/*.py` return.
        devices: to compile for; they need not exist (`topology_devices`).
        stage: the config's last unless given.
        batch: the global batch, the stage's unless given.
        accumulation: chunks of it, the stage's unless given.

    Raises:
        ValueError: from the config; says what to change.
    """
    stage = stage or config.stages[-1]
    check_name("stage", stage, config.stages)
    section = config[stage]
    batch = batch or section.batch_size
    accumulation = accumulation or section.loop.get("accumulation", 1)
    mesh = make_mesh(config.mesh.to_dict(), devices)
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * accumulation
    if batch % ways or batch < 1:
        raise ValueError(f"expected a batch divisible by {ways} (devices, chunks), got {batch}")
    compute = from_fields(Compute, config.compute.to_dict(), "compute")
    optimizer = from_fields(OptimizerConfig, section.optimizer.to_dict(), f"{stage}.optimizer")
    objective = abstract_objective(config, stage, compute)
    state, frozen = _abstract(objective, optimizer, section.loop.steps)
    rows, unused = _rows(objective, batch), {}
    if section.get("cache", ""):  # it need not exist: what it will hold is in the config
        features = config.get("encode", {}).get("features", CACHED)
        rows = cached_rows(objective.model_config, features, batch)
        everything = merge(state.params, frozen)
        unused, frozen = split(frozen, unused_parameters(objective, everything, features))

    def step_of(objective, accumulation):
        return make_step(
            objective, optimizer, section.loop.steps, config.seed, accumulation, unused
        )

    step = step_of(objective, accumulation)
    with jax.set_mesh(mesh):
        try:
            compiled = jit_step(step, mesh, state, frozen).lower(state, frozen, rows).compile()
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY in str(error):
                return None
            raise
    plain = dataclasses.replace(objective, compute=dataclasses.replace(compute, remat="none"))
    the_chip = chip(devices[0].device_kind)
    passes = the_chip.float32_passes if the_chip else 1.0
    flops = count_flops(step, state, frozen, rows, float32_passes=float(passes)) / len(devices)
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    collectives = find_collectives(text)
    traffic = memory_traffic(text)
    gathers = [c for c in collectives if c.kind == "all-gather"]
    largest = max(gathers, key=lambda c: c.size, default=None)
    return Plan(
        devices[0].device_kind,
        len(devices),
        dict(mesh.shape),
        batch,
        accumulation,
        _held((state.params, state.ema), shardings((state.params, state.ema), mesh)),
        _held(frozen, shardings(frozen, mesh)),
        _held(state.opt_state, shardings(state.opt_state, mesh)),
        memory.temp_size_in_bytes,
        _peak(memory),
        the_chip.hbm_bytes if the_chip else 0,
        count_flops(step_of(plain, 1), state, frozen, rows),
        flops,
        traffic,
        _by_kind(collectives),
        (largest.size, largest.where) if largest else (0, ""),
        _seconds(the_chip, flops, traffic, sum(c.sent for c in collectives)),
    )


def largest_batch(try_batch: Callable[[int], Plan | None], first: Plan, ways: int) -> int:
    """Returns the largest batch found to fit, a multiple of `ways`, within three compiles.

    What the activations take grows with the batch along a line: the line through two batches says
    where to look, and a compile there confirms it.
    """
    limit = first.hbm
    if not limit:
        return 0
    best, other = first, try_batch(2 * first.batch)
    if other is not None:
        best = other
        slope = (other.peak - first.peak) / first.batch
    else:
        slope = first.activations / first.batch
    guess = first.batch + int((0.95 * limit - first.peak) / max(slope, 1.0))
    for batch in (guess // ways * ways, int(0.85 * guess) // ways * ways):
        if batch <= best.batch:
            break
        if found := try_batch(batch):
            return found.batch
    return best.batch


def reduce_compile_effort(effort: float = FAST) -> None:
    """Makes XLA for TPUs compile in an eighth of the time, for all that follows in this process.

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
        raise ValueError(
            f"expected a TPU topology that libtpu knows, such as v5e:16x16, v6e:16x16 or "
            f"v5p:4x4x8, got {name!r}: {str(error).splitlines()[0]} (without libtpu: "
            f"pip install 'jax[tpu]')"
        ) from error


def abstract_objective(config: ConfigDict, stage: str, compute: Compute) -> Objective:
    """Returns a stage's objective without reading weights.

    A `toklip` stage names its sizes (`size`, `teacher_size`: see `models/sizes.py`), or starts
    from stages of the same config.
    """
    section, others = config[stage], {"compute": compute}
    if section.objective == "toklip":
        others["model_config"], others["teacher_config"] = _toklip_configs(config, section)
    else:
        others["model_config"] = config_from_dict(section.model.to_dict())
    return make_objective(section, **others)


def _toklip_configs(config, section):
    if "size" in section and section.size:
        model = named_size(section.size, "toklip")
        teacher = named_size(section.teacher_size, "teacher")
    else:
        sources = [section.init[name] for name in ("vq", "teacher")]
        if not all(source.startswith(STAGE_PREFIX) for source in sources):
            raise ValueError("expected size and teacher_size in the toklip stage, found none")
        names = [source.removeprefix(STAGE_PREFIX) for source in sources]
        vq, teacher = (config_from_dict(config[name].model.to_dict()) for name in names)
        model = TokLIPConfig(vq, teacher.vision, teacher.text)
    vision = dataclasses.replace(model.vision, is_causal=section.is_causal)
    has_bias = section.has_logit_bias
    return dataclasses.replace(model, vision=vision, has_logit_bias=has_bias), teacher.vision


def _abstract(objective, optimizer, steps):
    """Shapes of the state and of the frozen parameters, as the loop makes them."""
    params = jax.eval_shape(objective.init, jax.random.key(0))
    trainable, frozen = partition(params, objective.trainable)
    frozen = jax.eval_shape(lambda p: cast_frozen(p, objective.compute), frozen)
    return jax.eval_shape(lambda p: create_state(p, optimizer, steps), trainable), frozen


def _rows(objective, batch):
    """Shapes of a batch."""
    model = objective.model_config
    is_vq = isinstance(objective, VQObjective)
    # A VQ tokenizer takes any size; 256 pixels is what the released ones were trained on.
    side = 256 if is_vq else model.vision.image_size
    rows = {"images": jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)}
    if not is_vq:
        ids = (batch, model.text.context_length)
        rows["token_ids"] = jax.ShapeDtypeStruct(ids, jnp.int32)
    return rows


def _held(tree: Any, lies: Any) -> int:
    """Bytes of a tree's part on one device."""

    def one(leaf, sharding):
        part = sharding.shard_shape(leaf.shape)
        return jax.ShapeDtypeStruct(part, leaf.dtype).size * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, tree, lies)))


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
