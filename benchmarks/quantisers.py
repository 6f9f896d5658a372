"""Compares quantisers in the demo: TokLIP on top of each, equal rate and steps, several seeds.

    python -m benchmarks.quantisers --workdir=runs/quantisers
    python -m benchmarks.quantisers --workdir=runs/quantisers --show

All runs share one teacher, as all of the paper's sizes share theirs; each quantiser and seed is a
run of `configs/demo.py:vq=NAME` without it, in a directory of its own, and is continued if it was
interrupted. Other flags are the runs' own: `--config.vq.loop.steps=1500`. The table is the mean
over seeds and its standard error, on the demo's test split; it and all figures are written to
`benchmarks/results/quantisers.json`, and the same pictures through each tokenizer of the first seed
to `docs/quantisers.png`.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.seeds import mean_table

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quantisers.json"
PICTURE = ROOT / "docs" / "quantisers.png"
QUANTISERS = ("l2", "plain", "ibq", "residual", "several", "sign")
BITS = 10
L2_LOSSES = ("--config.vq.loss.entropy_weight=3e-4", "--config.vq.loss.dead_code_share=0.0")
NUM_PICTURES, SCALE = 8, 2
# Places, blocks and the teacher's steps of the demo when the table was measured.
PLACES = (
    "--config.vq.model.stem_patch=8",
    "--config.teacher.model.vision.patch_size=8",
    "--config.teacher.model.vision.depth=4",
    "--config.teacher.loop.steps=820",
)
# Runs that take five minutes of one core, equal for all, l2 without what was tuned for it since.
SHORTER = (
    "--config.vq.loop.steps=2000",
    "--config.vq.batch_size=16",
    "--config.vq.optimizer.learning_rate=3e-3",
    "--config.vq.optimizer.ema_decay=0.0",
    "--config.toklip.batch_size=64",
    "--config.toklip.optimizer.learning_rate=1e-3",
    "--config.toklip.loss.distillation_weight=1000.0",
    "--config.encode.crops=2",
    "--config.toklip.loop.steps=600",
    "--config.toklip.loop.evaluate_every=0",
    "--config.evaluate=('names','reconstruction','meaning')",
)

# Column of the table -> the figure, as "evaluation/model/figure".
COLUMNS = {
    "PSNR, dB": "reconstruction/VQ/psnr",
    "SSIM": "reconstruction/VQ/ssim",
    "codes used": "reconstruction/VQ/code_usage",
    "perplexity": "reconstruction/VQ/perplexity",
    "image→text R@1": "names/TokLIP/image_to_text_r1",
    "of the teacher's": "share",
    "group, top-1": "names/TokLIP/group_top1",
    "probe on codes": "meaning/VQ code vectors, mean/linear_probe",
    "probe on tokens": "meaning/TokLIP tokens, mean/linear_probe",
    "probe, pooled": "meaning/TokLIP, pooled/linear_probe",
}
TEACHER_R1 = "names/teacher/image_to_text_r1"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--quantisers", default=",".join(QUANTISERS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--show", action="store_true", help="print the table of what is there")
    args, overrides = parser.parse_known_args(argv)
    names, seeds = args.quantisers.split(","), [int(seed) for seed in args.seeds.split(",")]
    if not args.show:
        run_teacher(args.workdir)
        for seed in seeds:
            for name in names:
                run_quantiser(args.workdir, name, seed, overrides)
    found = {name: [read(args.workdir, name, seed) for seed in seeds] for name in names}
    found = {name: [one for one in runs if one] for name, runs in found.items()}
    print(table(found))
    if not args.show:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        save_picture(args.workdir, names, seeds[0])
    return 0


def run_teacher(workdir: pathlib.Path) -> None:
    """Trains the teacher that all runs share."""
    stages, nothing = "--config.stages=('teacher',)", "--config.evaluate=()"
    _main(workdir / "teacher", "configs/demo.py", 0, stages, nothing, *PLACES)


def run_quantiser(workdir: pathlib.Path, name: str, seed: int, overrides: Sequence[str]) -> None:
    """Trains a quantiser's VQ tokenizer and TokLIP on it, and evaluates both."""
    teacher = (workdir / "teacher" / "teacher" / "weights").absolute()
    _main(
        workdir / f"{name}_{seed}",
        f"configs/demo.py:vq={name},bits={BITS}",
        seed,
        "--config.stages=('vq','toklip')",
        f"--config.toklip.init.teacher={teacher}",
        f"--config.models.teacher={teacher}",
        *PLACES,
        *SHORTER,
        *(L2_LOSSES if name == "l2" else ()),
        *overrides,
    )


def read(workdir: pathlib.Path, name: str, seed: int) -> dict[str, float] | None:
    """Returns a run's figures, or None where it is not finished."""
    path = workdir / f"{name}_{seed}" / "results.json"
    if not path.exists():
        return None
    figures = {}
    for evaluation, result in json.loads(path.read_text())["evaluations"].items():
        for row in result["rows"]:
            for figure, cell in row.items():
                value = cell["value"] if isinstance(cell, Mapping) else cell
                if isinstance(value, int | float):
                    figures[f"{evaluation}/{row['model']}/{figure}"] = value
    figures["share"] = figures[COLUMNS["image→text R@1"]] / figures[TEACHER_R1]
    return figures


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Returns the table in Markdown: mean over seeds ± its standard error."""
    return mean_table("quantiser", found, COLUMNS)


def save_picture(workdir: pathlib.Path, names: Sequence[str], seed: int) -> None:
    """Writes test pictures, and below them what each tokenizer makes of them."""
    import toklip_jax
    from toklip_jax.demo.emoji import named_split
    from toklip_jax.ops.pixels import to_uint8

    pictures = named_split("test").test.images
    chosen = pictures[np.random.default_rng(0).choice(len(pictures), NUM_PICTURES, False)]
    rows = [chosen]
    for name in names:
        vq = toklip_jax.load(workdir / f"{name}_{seed}" / "vq" / "weights")
        rows.append(np.asarray(to_uint8(vq.detokenize(vq.tokenize(chosen)))))
    whole = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    image = PIL.Image.fromarray(whole)
    size = (image.width * SCALE, image.height * SCALE)
    image.resize(size, PIL.Image.Resampling.NEAREST).save(PICTURE)


def _main(workdir, config, seed, *others: Any):
    command = [sys.executable, "-m", "toklip_jax.main", f"--config={config}"]
    command += [f"--workdir={workdir}", f"--config.seed={seed}", *others]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
