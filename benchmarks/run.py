"""Runs the benchmarks and prints one table: what was measured, against what, and the bar.

    python -m benchmarks.run --suite=cpu
    python -m benchmarks.run --suite=vq
    python -m benchmarks.run --suite=language
    python -m benchmarks.run --suite=gpu
    python -m benchmarks.run --suite=gpu --rehearse
    python -m benchmarks.run --suite=cpu --only=limits,inference

Each part runs in a process of its own, so that neither memory nor threads of one meet the next.
Results go to `benchmarks/results/{suite}_{processor}.json` as soon as a part is done, so that a run
that is cut off leaves them: `--only` leaves the others' as they are, and `--show` prints the table
of what is there. The exit status is 1 where a part, or a contender within one, could not run (the
table says why), and 0 otherwise, bars met or not.

`--rehearse` runs the parts of the GPU suite on whatever there is, at the real widths, with one
layer and one round, and keeps nothing: whether each runs, not how fast.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import table, timing
from toklip_jax.core import large_pages

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

VQ_TOKENIZERS = (
    "llamagen", "taming", "chameleon", "emu3", "vila_u", "ibq", "magvit2", "unitok",
)  # fmt: skip
# Part -> module under `benchmarks` whose `measure` returns a dict, and its arguments.
PARTS: dict[str, dict[str, tuple[str, tuple[Any, ...]]]] = {
    "cpu": {
        "limits": ("limits", ("cpu",)),
        "inference": ("inference", ("cpu",)),
        "inference_bfloat16": ("inference", ("cpu_bfloat16",)),
        "inference_compile": ("inference", ("cpu_compile",)),
        "train_step": ("train_step", ("cpu",)),
        "compile_time": ("compile_time", ("cpu",)),
        "nearest": ("nearest", ()),
        "nearest_wide": ("nearest", (512, 262_144, 256, 8)),
        "cache": ("cache", ()),
        "loading": ("loading", (13,)),  # layers, half of S-256's
        "host": ("host", ()),
    },
    # The VQ tokenizers at their published sizes; `--suite=vq`.
    "vq": {
        "search": ("nearest", (1024, 262_144, 256, 8, "inner_product")),
        **{name: ("vq_tokenizers", (name,)) for name in VQ_TOKENIZERS},
    },
    # Sampling by generators; `--suite=generation`.
    "generation": {"tiny": ("sampling", ("tiny",)), "b": ("sampling", ("b",))},
    # Decoding by language models; `--suite=language`.
    "language": {name: ("language_model", (name,)) for name in ("qwen2.5", "qwen3")},
    # The shortest first: a run that is cut off has measured the most.
    "gpu": {
        "limits": ("limits", ("gpu",)),
        "nearest": ("nearest", ()),
        "nearest_wide": ("nearest", (8192, 262_144, 256, 5)),
        "attention": ("attention", ()),
        "inference": ("inference", ("gpu",)),
        "train_step": ("train_step", ("gpu",)),
        **{
            f"decode_layers_{size}": ("decode_layers", (f"gpt_{size}_256",))
            for size in ("b", "l", "xl")
        },
        **{f"sampling_{size}": ("sampling", (f"gpu_{size}",)) for size in ("b", "xl", "l")},
        "inference_vq_float32": ("inference", ("gpu_vq_float32",)),
        "compile_time": ("compile_time", ("gpu",)),
        "inference_compile": ("inference", ("gpu_compile",)),
        "train_step_compile": ("train_step", ("gpu_compile",)),
    },
}
# Modules whose `measure` takes `is_rehearsal`; the others take seconds anyway.
REHEARSED = (
    "limits",
    "nearest",
    "inference",
    "train_step",
    "attention",
    "decode_layers",
    "sampling",
    "language_model",
)
ON_CPUS = ("cpu", "vq", "generation", "language")
# Seconds of a part.
LONGEST = {"cpu": 900, "vq": 900, "generation": 900, "language": 900, "gpu": 1200}


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    if args.part:
        args.out.write_text(json.dumps(call(args.suite, args.part, args.rehearse)))
        return 0
    path = args.results / f"{args.suite}_{_slug(args.processor or processor(args.suite))}.json"
    is_kept = path.exists() and not args.rehearse
    results = json.loads(path.read_text()) if is_kept else {}
    if not args.show:
        for name in args.only or PARTS[args.suite]:
            print(f"{name} ...", flush=True)
            results[name] = run(args.suite, name, args.rehearse)
            print(f"{name}: {results[name]['part_seconds']:.0f} s", flush=True)
            if not args.rehearse:
                args.results.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(rounded(results), indent=1) + "\n")
    print(table.text(results))
    return 1 if table.failures(results) else 0


def call(suite: str, part: str, is_rehearsal: bool = False) -> dict[str, Any]:
    """Returns what a part measures, in this process."""
    module, arguments = PARTS[suite][part]
    options = {"is_rehearsal": True} if is_rehearsal and module in REHEARSED else {}
    return importlib.import_module(f"benchmarks.{module}").measure(*arguments, **options)


def run(suite: str, part: str, is_rehearsal: bool = False) -> dict[str, Any]:
    """Returns what a part measures in a process of its own, or `failed`: why it could not."""
    load, start = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.run", f"--suite={suite}"]
        command += ["--rehearse"] if is_rehearsal else []
        try:
            done = subprocess.run(
                [*command, f"--part={part}", f"--out={out}"],
                env=environment(suite),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=LONGEST[suite],
                check=False,
            )
            result = json.loads(out.read_text()) if out.exists() else {"failed": why(done)}
        except subprocess.TimeoutExpired:
            result = {"failed": f"took more than {LONGEST[suite]} s"}
    return result | {"part_seconds": time.perf_counter() - start, "load_before": load}


def processor(suite: str) -> str:
    """Returns the name of what a suite runs on, which its results' file has."""
    if suite in ON_CPUS:
        return timing.processor()
    command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _slug(name):
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("(r)", "")).strip("_")


def environment(suite: str) -> dict[str, str]:
    """The process's: no network, memory left for both frameworks, and pages as the commands have.

    On a CPU the peer, in the same process, has large pages too, which its own users don't.
    """
    variables = {
        "HF_HUB_OFFLINE": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONWARNINGS": "ignore",
    }
    variables = {**os.environ, **variables} | ({"JAX_PLATFORMS": "cpu"} if suite in ON_CPUS else {})
    return large_pages.with_large_pages(variables)


def why(done: subprocess.CompletedProcess) -> str:
    lines = done.stderr.strip().splitlines()
    return f"exit status {done.returncode}: {lines[-1] if lines else 'no message'}"


def rounded(value: Any) -> Any:
    """Returns results with four digits a number, so that files read well and say no more."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.4g}")
    return value


def _parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=tuple(PARTS), default="cpu")
    parser.add_argument("--only", type=lambda names: names.split(","), help="parts, by commas")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="where they go")
    parser.add_argument("--processor", help="the name in the results' file, for --show")
    parser.add_argument("--rehearse", action="store_true", help="one layer and round, kept nowhere")
    parser.add_argument("--show", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of the process a part runs in
    parser.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in args.only or ():
        if name not in PARTS[args.suite]:
            parser.error(f"expected parts of {sorted(PARTS[args.suite])}, got {name!r}")
    return args


if __name__ == "__main__":
    sys.exit(main())
