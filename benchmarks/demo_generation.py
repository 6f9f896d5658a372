"""Compares a generator with and without TokLIP's tokens, in the demo, over several seeds.

    python -m benchmarks.demo_generation --demos=runs/quantisers/l2_0,... --workdir=runs/generation
    python -m benchmarks.demo_generation --workdir=runs/generation --show

Each demo given is a finished run: its TokLIP is the tokenizer, and its teacher scores samples
(`benchmarks/demo_samples.py` says how). Variants:

- `none`, `add`, `concat` at equal steps, conditioned on the group, and `none_equal_compute`: `none`
  for the steps that cost what `concat` does;
- `caption_none` and so on: conditioned on the caption's tokens;
- `best_of_8`, `best_of_8_dropped`: what TokLIP chooses of eight samples of `add`, where the second
  gives up the worse half after half of the places; no training;
- `grpo_toklip`, `grpo_teacher`: `add`, post-trained by that reward.

The table is the mean over runs and its standard error.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.demo_samples import SCALES, Measure, teacher_of
from benchmarks.seeds import by_variant, mean_table
from toklip_jax.costs.flops import count_flops
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.generator.objective import GeneratorObjective
from toklip_jax.training.state import merge, partition
from toklip_jax.weights import load_weights

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo_generation.json"
STEPS, BATCH = 600, 64
START = "add"  # of what is chosen from or post-trained
CANDIDATES = 8
VARIANTS = ("none", "add", "concat", "none_equal_compute", "caption_none", "caption_add")
VARIANTS += ("caption_concat", "best_of_8", "best_of_8_dropped", "grpo_toklip", "grpo_teacher")
COLUMNS = ("train loss", "nats an id", "nats an id, seen style")
COLUMNS += tuple(f"{name}, cfg {s:g}" for s in SCALES for name in ("FID", "accuracy", "spread"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demos", default="", help="finished demo runs, one for each seed")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--first-seed", type=int, default=0, help="of the first demo")
    parser.add_argument("--split", default="test")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of what is there")
    args, overrides = parser.parse_known_args(argv)
    path = args.workdir / "figures.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for seed, demo in enumerate(filter(None, args.demos.split(",")), args.first_seed):
        for variant in args.variants.split(","):
            name = f"{variant}_{seed}"
            if name not in figures and not args.show:
                figures[name] = run(args, pathlib.Path(demo), variant, seed, overrides)
                path.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))
    if not args.show:
        args.results.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def run(args, demo, variant, seed, overrides) -> dict[str, float]:
    """Returns the figures of a variant, trained first where it is not one that only chooses."""
    workdir, start = args.workdir / f"{variant}_{seed}", args.workdir / f"{START}_{seed}"
    measure = Measure(demo, args.split, seed)
    if variant.startswith("best_of"):
        return measure.best_of(start / "generator", CANDIDATES, variant.endswith("dropped"))
    if variant.startswith("grpo"):
        post_train(workdir, demo, start, variant.partition("_")[2], seed, overrides)
        return measure.generator(workdir / "grpo")
    train(workdir, demo, variant, seed, args.steps, overrides)
    return {"train loss": final_loss(workdir)} | measure.generator(workdir / "generator")


def train(workdir, demo, variant, seed, steps, overrides) -> None:
    """Trains a generator on a demo's TokLIP."""
    condition = "caption" if variant.startswith("caption") else "group"
    semantic = variant.removeprefix("caption_").partition("_")[0]
    if variant.endswith("equal_compute"):
        steps = round(steps * compute_ratio(demo))
    _main(
        f"semantic={semantic},condition={condition}",
        workdir,
        demo,
        f"--config.seed={seed}",
        f"--config.generator.loop.steps={steps}",
        f"--config.generator.init.tokenizer={demo}/toklip/weights",
        *overrides,
    )


def post_train(workdir, demo, start, reward, seed, overrides) -> None:
    """Goes on from a generator by a reward."""
    teacher = teacher_of(demo) if reward == "teacher" else ""
    _main(
        f"semantic={START}",
        workdir,
        demo,
        f"--config.seed={seed}",
        "--config.stages=('grpo',)",
        f"--config.grpo.init.generator={start}/generator/weights",
        f"--config.grpo.init.teacher={teacher}",
        f"--config.grpo.loss.reward={reward}",
        *overrides,
    )


def _main(options, workdir, demo, *flags):
    command = [sys.executable, "-m", "toklip_jax.main"]
    tokenizer = load_weights(demo / "toklip" / "weights").config
    bits = math.log2(tokenizer.vq.codebook_sizes[0])
    config = f"configs/demo_generation.py:{options},bits={bits:.0f}"
    command += [f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.generator.model.grid={tokenizer.vision.grid}"]
    command += [f"--config.text.tokenizer={demo}/tokenizer.json", *flags]
    subprocess.run(command, cwd=ROOT, check=True)


def compute_ratio(demo) -> float:
    """Returns the FLOPs of a training step of `concat` by those of `none`."""
    return step_flops(demo, "concat") / step_flops(demo, "none")


def step_flops(demo, semantic) -> float:
    """Returns the FLOPs of a training step from ids."""
    weights = load_weights(pathlib.Path(demo) / "toklip" / "weights")
    vision = weights.config.vision
    gpt = GPTConfig(
        128, 4, 4, grid=vision.grid, codebook_sizes=tuple(weights.config.vq.codebook_sizes),
        num_classes=9, semantic=semantic, semantic_dim=0 if semantic == "none" else vision.width,
    )  # fmt: skip
    objective = GeneratorObjective(GeneratorConfig(gpt, weights.config), Compute(is_scanned=False))
    params = jax.eval_shape(objective.init, jax.random.key(0))
    trainable, frozen = partition(params, objective.trainable)
    batch = {
        "ids": jax.ShapeDtypeStruct((BATCH, vision.num_tokens), jnp.int32),
        "labels": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }

    def step(trainable, frozen, batch):
        def loss(p):
            return objective.loss(merge(p, frozen), batch, jax.random.key(0))[0]

        return jax.grad(loss)(trainable)

    return count_flops(step, trainable, frozen, batch)


def final_loss(run) -> float:
    """Returns the training loss, the mean of the last tenth of the log's lines."""
    lines = (run / "generator" / "metrics.jsonl").read_text().splitlines()
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return statistics.fmean(losses[-max(len(losses) // 10, 1) :])


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the table in Markdown: mean over runs ± its standard error."""
    return mean_table("variant", by_variant(figures), {name: name for name in COLUMNS})


if __name__ == "__main__":
    sys.exit(main())
