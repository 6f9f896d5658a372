"""Measures a cache's gain: steps a second with and without, in turn, and records read a second.

    python -m benchmarks.cache                                       # small, on a CPU, two minutes
    python -m benchmarks.cache --size=toklip_s_256 --batch=64 --dtype=bfloat16    # on a GPU

The small model's parts have about the shares of the FLOPs that those of S-256 have. The ratio of
the whole step's FLOPs to the cached one's, which is printed as well, is what can be gained where
all parts run equally near to the peak. `benchmarks.run` keeps the small model's figures.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import against_bar, machine
from toklip_jax.costs.flops import count_flops
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.siglip.sizes import SIZES as TEACHER_SIZES
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import cast_frozen, partition, shapes_of
from toklip_jax.training.step import create_state, make_step

BAR = 1.5  # times the steps a second
VQ = LlamaGenConfig(1024, channels=32, num_res_blocks=1, z_channels=64)
VISION = VisionConfig(384, 8, 6, 1536, is_causal=True, image_size=128)
TEXT = TextConfig(384, 8, 6, 1536, vocab_size=4096, context_length=16)
SMALL = TokLIPConfig(VQ, VISION, TEXT, has_logit_bias=False)
OPTIMIZER, STEPS = OptimizerConfig(learning_rate=1e-5), 1000
RECORDS = 20_000


def measure(
    size: str = "", batch: int = 16, repeats: int = 7, steps: int = 1, dtype: str = "float32"
) -> dict:
    """Returns the figures.

    Args:
        size: of `models.sizes.TOKLIP_SIZES`; "" for the small model.
        batch: images a step.
        repeats: times that each is measured, in turn.
        steps: of one measurement.
        dtype: of the towers.
    """
    config, teacher = _models(size)
    objective = TokLIPObjective(config, teacher, Compute(dtype))
    trainable, frozen = _parameters(objective)
    batches = _batches(objective, trainable, frozen, batch)
    step = make_step(objective, OPTIMIZER, STEPS)
    state = jax.jit(lambda p: create_state(p, OPTIMIZER, STEPS))(trainable)
    states = {name: jax.tree.map(jnp.copy, state) for name in batches}
    compiled = {
        name: jax.jit(step, donate_argnums=0).lower(state, frozen, rows).compile()
        for name, rows in batches.items()
    }
    losses, seconds = {}, {name: [] for name in batches}
    cpu = {name: [] for name in batches}
    for _ in range(repeats + 1):  # the first warms up
        for name, rows in batches.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                states[name], metrics = compiled[name](states[name], frozen, rows)
            losses[name] = float(metrics["loss"])
            seconds[name].append((time.perf_counter() - start) / steps)
            cpu[name].append((time.process_time() - start_cpu) / steps)
    ratios, cpu_ratios = (
        [a / b for a, b in zip(times["images"][1:], times["cache"][1:], strict=True)]
        for times in (seconds, cpu)
    )
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    flops = {
        name: count_flops(step, *map(shapes_of, (state, frozen, rows))) / batch
        for name, rows in batches.items()
    }
    speedup = statistics.median(ratios)
    what = f"{size or 'small'}, batch {batch}: steps a second from a cache by those from images"
    return {
        "machine": machine(),
        # Of neighbours in time, as other work on the machine comes and goes.
        "rows": [{"what": what, "value": speedup} | against_bar(speedup, BAR)],
        "dtype": dtype,
        "steps_per_second": {name: 1 / value for name, value in medians.items()},
        "speedup_of_each_repeat": ratios,
        "speedup_by_cpu_time": statistics.median(cpu_ratios),
        "gflops_per_image": {name: value / 1e9 for name, value in flops.items()},
        "flops_ratio": flops["images"] / flops["cache"],
        "losses": losses,
    }


def reading(records: int = RECORDS) -> dict:
    """Returns records a second of one process, random access, CPU time, with S-256's fields."""
    from toklip_jax.data.cache import Field, Header, lay_out
    from toklip_jax.data.record_files import write_records
    from toklip_jax.data.sources import CacheSource, PickCrop

    fields = lay_out(
        [
            Field("ids", "uint16", (256,)),
            Field("token_ids", "uint32", (64,)),
            Field("teacher_feature", "bfloat16", (1152,)),
            Field("text_feature", "bfloat16", (1152,)),
        ]
    )
    header = Header(
        num_samples=records,
        records_per_shard=records,
        crops=1,
        image_size=256,
        grid=(16, 16),
        codes_per_place=1,
        codebook_sizes=(16_384,),
        context_length=64,
        fields=fields,
        has_captions=False,
        hashes={},
        transform={},
        compute={},
        source={},
    )
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        header.save(directory)
        rows = [random.bytes(header.record_bytes) for _ in range(records)]
        write_records(pathlib.Path(directory) / header.shard(0), rows)
        source, pick = CacheSource(directory), PickCrop()
        order = random.permutation(records).tolist()
        seconds = []
        for _ in range(3):
            start = time.process_time()
            for index in order:
                pick(source[index], random)
            seconds.append(time.process_time() - start)
        size = sum(path.stat().st_size for path in pathlib.Path(directory).iterdir())
    return {
        "records_per_second": records / min(seconds),
        "bytes_per_record": header.record_bytes,
        "bytes_per_record_on_disk": size / records,
    }


def _models(size):
    if not size:
        return SMALL, dataclasses.replace(VISION, is_causal=False)
    teacher = TEACHER_SIZES[size.replace("toklip_s", "siglip2_so400m")]
    config = dataclasses.replace(TOKLIP_SIZES[size], has_logit_bias=False)
    return config, teacher.vision


def _parameters(objective):
    """Random ones, in no time."""
    random = np.random.default_rng()

    def draw(leaf):
        return jnp.asarray(random.standard_normal(leaf.shape, np.float32) * 0.02)

    params = jax.tree.map(draw, jax.eval_shape(objective.init, jax.random.key(0)))
    trainable, frozen = partition(params, objective.trainable)
    return trainable, cast_frozen(frozen, objective.compute, objective.full_precision)


def _batches(objective, trainable, frozen, batch):
    """The same pairs as images and as a cache has them."""
    random = np.random.default_rng()
    vision, text = objective.model_config.vision, objective.model_config.text
    shape = (batch, vision.image_size, vision.image_size, 3)
    texts = random.integers(0, text.vocab_size, (batch, text.context_length), np.int32)
    images = {
        "images": jnp.asarray(random.integers(0, 256, shape, np.uint8)),
        "token_ids": jnp.asarray(texts),
    }

    def encode(params, images):
        made = objective.prepare(params, images)
        made["text_feature"] = objective.text_feature(params, images["token_ids"])
        return {
            name: value.astype(jnp.bfloat16) if "feature" in name else value
            for name, value in made.items()
        }

    return {"images": images, "cache": jax.jit(encode)({**trainable, **frozen}, images)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    args = vars(parser.parse_args())
    print(json.dumps({"step": measure(**args), "reading": reading()}, indent=2))


if __name__ == "__main__":
    main()
