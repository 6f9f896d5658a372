"""Compares a generator with and without TokLIP's tokens, in the demo, over several seeds.

    python -m benchmarks.demo_generation --demos=runs/quantisers/l2_0,... --workdir=runs/generation
    python -m benchmarks.demo_generation --workdir=runs/generation --show

Each demo given is a finished run: its TokLIP is the tokenizer, and its teacher scores samples. For
each, a GPT is trained with `none`, `add` and `concat` at equal steps, and with `none` at the
compute of `concat`. Measured on the held-out style: nats an id; and of samples, with and without
guidance: FID in the teacher's features (against training pictures), accuracy of the group by the
teacher, and how different those of a group are. The table is the mean over runs and its standard
error.
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
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo_generation.json"
STEPS, BATCH, SAMPLES = 600, 64, 1800
SCALES = (1.0, 2.0)  # of guidance
COLUMNS = ("train loss", "nats an id", "nats an id, seen style")
COLUMNS += tuple(f"{name}, cfg {s:g}" for s in SCALES for name in ("FID", "accuracy", "spread"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demos", default="", help="finished demo runs, one for each seed")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--variants", default="none,add,concat,none_equal_compute")
    parser.add_argument("--first-seed", type=int, default=0, help="of the first demo")
    parser.add_argument("--split", default="test")
    parser.add_argument("--show", action="store_true", help="print the table of what is there")
    args, overrides = parser.parse_known_args(argv)
    path = args.workdir / "figures.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for seed, demo in enumerate(filter(None, args.demos.split(",")), args.first_seed):
        for variant in args.variants.split(","):
            name = f"{variant}_{seed}"
            if name not in figures and not args.show:
                run = train(args.workdir / name, demo, variant, seed, args.steps, overrides)
                figures[name] = measure(run, pathlib.Path(demo), args.split, seed)
                path.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))
    if not args.show:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def train(workdir, demo, variant, seed, steps, overrides) -> pathlib.Path:
    """Trains one variant on a demo's TokLIP, and returns its directory."""
    semantic = variant.partition("_")[0]
    if variant.endswith("equal_compute"):
        steps = round(steps * compute_ratio(demo))
    command = [sys.executable, "-m", "toklip_jax.main"]
    command += [f"--config=configs/demo_generation.py:semantic={semantic}", f"--workdir={workdir}"]
    command += [f"--config.seed={seed}", f"--config.generator.loop.steps={steps}"]
    command += [f"--config.generator.init.tokenizer={demo}/toklip/weights"]
    command += [f"--config.text.tokenizer={demo}/tokenizer.json", *overrides]
    subprocess.run(command, cwd=ROOT, check=True)
    return workdir


def compute_ratio(demo) -> float:
    """Returns the FLOPs of a training step of `concat` by those of `none`."""
    return step_flops(demo, "concat") / step_flops(demo, "none")


def step_flops(demo, semantic) -> float:
    """Returns the FLOPs of a training step from ids."""
    from toklip_jax.costs.flops import count_flops
    from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
    from toklip_jax.nn.config import Compute
    from toklip_jax.tasks.generator.objective import GeneratorObjective
    from toklip_jax.training.state import merge, partition
    from toklip_jax.weights import load_weights

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


def measure(run: pathlib.Path, demo: pathlib.Path, split: str, seed: int) -> dict[str, float]:
    """Returns the figures of one trained generator."""
    import PIL.Image

    import toklip_jax
    from toklip_jax.demo.emoji import named_split
    from toklip_jax.metrics import Frechet, frechet_distance
    from toklip_jax.run.generate import to_grid

    generator = toklip_jax.load(run / "generator" / "weights", batch_size=256)
    teacher = Teacher(demo)
    parts = named_split(split, 48)
    figures = {"train loss": final_loss(run)}
    seen = np.random.default_rng(0).choice(len(parts.train), len(parts.test), replace=False)
    figures["nats an id"] = nats(generator, parts.test.images, parts.test.group_ids)
    figures["nats an id, seen style"] = nats(
        generator, parts.train.images[seen], parts.train.group_ids[seen]
    )
    real = teacher.features(parts.train.images[seen])
    reference = Frechet.from_features(real).statistics()
    # The classes as often as they are among the pictures.
    labels = np.random.default_rng(seed).choice(parts.train.group_ids, SAMPLES)
    for scale in SCALES:
        ids = np.asarray(generator.sample(classes=labels, key=seed, cfg_scale=scale))
        images = np.asarray(generator.detokenize(ids))
        images = np.clip((images + 1) * 127.5, 0, 255).round().astype(np.uint8)
        features = teacher.features(images)
        gaussian = Frechet.from_features(features).statistics()
        figures[f"FID, cfg {scale:g}"] = frechet_distance(gaussian, reference)
        figures[f"accuracy, cfg {scale:g}"] = teacher.accuracy(features, labels)
        figures[f"spread, cfg {scale:g}"] = spread(features, labels)
        first = [images[labels == group][i] for group in range(9) for i in range(9)]
        PIL.Image.fromarray(to_grid(first)).save(run / f"samples_cfg_{scale:g}.png")
    return figures


class Teacher:
    """A demo's teacher: features of pictures, and the group that they are nearest to."""

    def __init__(self, demo: pathlib.Path):
        from toklip_jax.data.text import TextTokenizer
        from toklip_jax.demo.emoji import named_split
        from toklip_jax.models.registry import build_model
        from toklip_jax.nn.config import Compute
        from toklip_jax.weights import load_weights

        config = json.loads((demo / "config.json").read_text())
        source = config["toklip"]["init"]["teacher"]
        path = demo / "teacher" / "weights" if source.startswith("stage:") else source
        weights = load_weights(path)
        model = build_model(weights.config, Compute(is_scanned=weights.is_scanned))
        self._apply = jax.jit(
            lambda images: model.apply({"params": weights.params}, images, method="image_features")
        )
        text = TextTokenizer.load(demo / "tokenizer.json", weights.config.text.context_length)
        groups = text(list(named_split("test", 48).test.groups))
        self._groups = _unit(
            model.apply({"params": weights.params}, jnp.asarray(groups), method="text_features")
        )

    def features(self, images) -> np.ndarray:
        """Normalised features of uint8 images."""
        from toklip_jax.ops.pixels import to_unit_range

        chunks = [images[i : i + 256] for i in range(0, len(images), 256)]
        return np.concatenate([_unit(self._apply(jnp.asarray(to_unit_range(x)))) for x in chunks])

    def accuracy(self, features, labels) -> float:
        """How often the nearest group's name is the label's."""
        return float(np.mean(np.argmax(features @ self._groups.T, axis=1) == labels))


def spread(features, labels) -> float:
    """Returns the mean distance of two samples of one class: 1 - their features' product."""
    means = []
    for label in np.unique(labels):
        own = features[labels == label]
        products = own @ own.T
        n = len(own)
        if n > 1:
            means.append(1 - (products.sum() - np.trace(products)) / (n * (n - 1)))
    return float(np.mean(means))


def nats(generator, images, labels) -> float:
    """Returns the mean of -log p(id | those before it, group), nats."""
    total, count = 0.0, 0
    for start in range(0, len(images), 256):
        ids = np.asarray(generator.tokenize(images[start : start + 256]))
        logits = generator.logits(ids, classes=labels[start : start + 256])[:, :-1]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1)
        total, count = total - float(chosen.sum()), count + ids.size
    return total / count


def final_loss(run) -> float:
    """Returns the training loss, the mean of the last tenth of the log's lines."""
    lines = (run / "generator" / "metrics.jsonl").read_text().splitlines()
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return statistics.fmean(losses[-max(len(losses) // 10, 1) :])


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the table in Markdown: mean over runs ± its standard error."""
    runs: dict[str, list] = {}
    for name, one in figures.items():
        runs.setdefault(name.rpartition("_")[0], []).append(one)
    lines = ["| variant | runs | " + " | ".join(COLUMNS) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(COLUMNS))
    for variant, found in runs.items():
        cells = [_cell([one.get(column, math.nan) for one in found]) for column in COLUMNS]
        lines.append(f"| {variant} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values):
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {statistics.stdev(values) / len(values) ** 0.5:.2g}"


def _unit(x):
    x = np.asarray(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
