"""Compares what a small multimodal model reads of an image, in the demo, over several seeds.

    python -m benchmarks.demo_multimodal --demos=runs/quantisers/l2_0,... --workdir=runs/multimodal
    python -m benchmarks.demo_multimodal --workdir=runs/multimodal --show

Each demo given is a finished run, for one seed. For each, the same language model is trained from
scratch, with equal steps, on questions about the training pictures (`toklip_jax/demo/questions.py`)
while it reads TokLIP's tokens, code vectors, both, embeddings of the ids alone, these with the
tokens, or the teacher's tokens of the pixels. Measured is how often the answer is right, word for
word, on pictures in the held-out style (of the question of style: on pictures of things that were
not seen). `one_model` also draws; of its drawings the teacher says the group.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

import toklip_jax
from benchmarks.demo_samples import Teacher, spread, teacher_of
from benchmarks.seeds import by_variant, mean_table
from toklip_jax.demo.emoji import EmojiSplit, named_split
from toklip_jax.demo.questions import DRAW, KINDS, NO, YES, held_out_questions
from toklip_jax.ops.pixels import to_uint8
from toklip_jax.run.generate import to_grid
from toklip_jax.weights import load_weights

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo_multimodal.json"
STEPS, BATCH, SHOWN = 800, 256, 6
VARIANTS = ("codes", "tokens", "both", "ids", "tokens_and_ids", "pixels", "one_model")
COLUMNS = ("train nats", *KINDS, "said yes", "drawn: accuracy", "drawn: spread")


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
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for seed, demo in enumerate(filter(None, args.demos.split(",")), args.first_seed):
        for variant in args.variants.split(","):
            name = f"{variant}_{seed}"
            if name not in found and not args.show:
                train(args.workdir / name, pathlib.Path(demo), variant, seed, args, overrides)
                found[name] = measure(args.workdir / name, pathlib.Path(demo), args.split, seed)
                path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if not args.show:
        args.results.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def train(workdir, demo, variant, seed, args, overrides) -> None:
    """Trains a model that reads what `variant` says."""
    parts = {"tokenizer": demo / "toklip" / "weights"}
    if variant == "pixels":
        parts = {"image_tower": teacher_of(demo)}
    command = [sys.executable, "-m", "toklip_jax.main", f"--workdir={workdir}"]
    command += [f"--config=configs/demo_multimodal.py:reads={variant}", f"--config.seed={seed}"]
    command += [f"--config.multimodal.loop.steps={args.steps}", f"--config.source.seed={seed}"]
    command += [f"--config.source.split={args.split}"]
    places = load_weights(demo / "toklip" / "weights").config.vision.num_tokens
    command += [f"--config.source.tokens_per_image={places}"]
    command += [f"--config.source.length={places + 60}"]  # as the config: an image, and texts
    command += [f"--config.source.text_tokenizer={demo}/tokenizer.json"]
    command += [f"--config.text.tokenizer={demo}/tokenizer.json"]
    command += [f"--config.multimodal.init.{name}={path}" for name, path in parts.items()]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True)


def measure(run: pathlib.Path, demo: pathlib.Path, split: str, seed: int) -> dict[str, Any]:
    """Returns the figures of one trained model, and some of its answers."""
    model = toklip_jax.load(run / "multimodal" / "weights", batch_size=BATCH)
    parts, shown = named_split(split, 48), []
    figures: dict[str, Any] = {"train nats": final_nats(run)}
    for kind in KINDS:
        pictures, asked = held_out_questions(parts, kind)
        rows = [
            (i, question, answer) for i, pairs in enumerate(asked) for question, answer in pairs
        ]
        images = pictures.images[[i for i, _, _ in rows]]
        answers = model.answer(images, [question for _, question, _ in rows], max_new_tokens=12)
        right = [answer == row[2] for answer, row in zip(answers, rows, strict=True)]
        figures[kind] = float(np.mean(right))
        if kind == "yes or no":
            figures["said yes"] = float(np.mean([answer == YES for answer in answers]))
            unclear = sum(answer not in (YES, NO) for answer in answers)
            figures["neither yes nor no"] = unclear / len(answers)
        chosen = np.random.default_rng(seed).choice(len(rows), SHOWN, replace=False)
        shown += [(kind, int(rows[i][0]), *rows[i][1:], answers[i]) for i in chosen]
    if run.name.startswith("one_model"):
        figures |= drawn(model, parts, demo, seed, run)
    return figures | {"answers": shown}


def drawn(model, parts: EmojiSplit, demo, seed, run) -> dict[str, float]:
    """Returns what the teacher says of pictures drawn of names, and writes some of them."""
    train = parts.train
    asked = np.random.default_rng(seed).choice(len(train), 900)
    names = [train.concepts[i].name for i in train.concept_ids[asked]]
    ids = model.generate_images([DRAW.format(name) for name in names], key=seed, cfg_scale=2.0)
    vq = toklip_jax.load(demo / "toklip" / "weights", batch_size=BATCH)
    images = np.asarray(to_uint8(vq.detokenize(ids)))
    PIL.Image.fromarray(to_grid(list(images[:36]))).save(run / "drawn.png")
    teacher, labels = Teacher(demo), train.group_ids[asked]
    features = teacher.features(images)
    return {
        "drawn: accuracy": teacher.accuracy(features, labels),
        "drawn: spread": spread(features, labels),
    }


def final_nats(run: pathlib.Path) -> float:
    """Returns the training loss, the mean of the last fifth of the log's lines."""
    lines = (run / "multimodal" / "metrics.jsonl").read_text().splitlines()
    nats = [entry["nats_per_token"] for entry in map(json.loads, lines) if "loss" in entry]
    return statistics.fmean(nats[-max(len(nats) // 5, 1) :])


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table in Markdown: mean over runs ± its standard error."""
    return mean_table("reads", by_variant(found), {name: name for name in COLUMNS})


if __name__ == "__main__":
    sys.exit(main())
