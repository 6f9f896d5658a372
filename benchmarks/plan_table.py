"""Makes benchmarks/results/plan.md and plan.json: what the released sizes take on TPU pods.

    python -m benchmarks.plan_table [--only=TEXT]

Compiles for topologies that aren't here, with libtpu and no TPU; a minute or two a row on a free
core. Rows that plan.json has are not compiled again: delete it to start over.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import jax

from toklip_jax.cli.train import parse
from toklip_jax.costs.chips import chip
from toklip_jax.experiment import read_experiment
from toklip_jax.planning.plan import plan, reduce_compile_effort, topology_devices

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

# (config, topology, global batch, chunks): the released batch a chip first, then larger ones.
ROWS = (
    ("toklip_s_256", "v5e:16x16", 4096, 1),
    ("toklip_l_384", "v5e:16x16", 8192, 1),
    ("toklip_xl_512", "v5e:16x16", 4096, 1),
    ("toklip_s_256", "v6e:16x16", 4096, 1),
    ("toklip_l_384", "v6e:16x16", 8192, 1),
    ("toklip_xl_512", "v6e:16x16", 4096, 1),
    ("toklip_s_256", "v5p:4x4x8", 2048, 1),
    ("toklip_l_384", "v5p:4x4x8", 4096, 1),
    ("toklip_xl_512", "v5p:4x4x8", 2048, 1),
    ("toklip_s_256", "v5e:16x16", 16384, 1),
    ("toklip_l_384", "v5e:16x16", 32768, 4),
    ("toklip_s_256", "v6e:16x16", 32768, 1),
    ("toklip_l_384", "v6e:16x16", 32768, 2),
    ("toklip_s_256", "v5p:4x4x8", 32768, 1),
    ("toklip_l_384", "v5p:4x4x8", 16384, 1),
    ("toklip_xl_512", "v5e:16x16", 32768, 8),
    ("toklip_xl_512", "v6e:16x16", 32768, 4),
    ("toklip_xl_512", "v5p:4x4x8", 8192, 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose config or topology has this text")
    only = parser.parse_args().only
    jax.config.update("jax_platforms", "cpu")
    reduce_compile_effort()
    for row in ROWS:
        if only in " ".join(map(str, row)) and _key(row) not in read():
            found = _compile(*row)
            write(read() | {_key(row): found and dataclasses.asdict(found)})
    (RESULTS / "plan.md").write_text(table(read()))


def read() -> dict:
    path = RESULTS / "plan.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(rows: dict) -> None:
    order = [_key(row) for row in ROWS if _key(row) in rows]
    (RESULTS / "plan.json").write_text(json.dumps({k: rows[k] for k in order}, indent=1) + "\n")


def table(rows: dict) -> str:
    """Markdown: a line a row, memory in GiB, times in ms."""
    lines = [
        "# Plans of the training step",
        "",
        f"Made by `benchmarks/plan_table.py`; jax {jax.__version__}. GiB and ms a chip.",
        "",
        "| model | chips | batch | chunks | params | optimizer | frozen | activations | peak | of "
        "| FLOPs | GiB moved | GiB sent | compute | memory | links | MFU at most |",
        "| --- | --- " + "| ---: " * 15 + "|",
    ]
    for key, found in rows.items():
        config, topology, batch, chunks = key.split()
        start = f"| {config} | {topology} | {batch} | {chunks} |"
        lines.append(start + (_cells(found) if found else " does not fit |" + " |" * 12))
    return "\n".join(lines) + "\n"


def _cells(found):
    gib = [found[k] / 2**30 for k in ("parameters", "optimizer", "frozen", "activations", "peak")]
    sent = sum(sent for _, sent in found["collectives"].values()) / 2**30
    seconds = found["seconds"]
    peak = chip(found["device_kind"]).bf16_flops
    cells = [f"{x:.2f}" for x in gib]
    cells += [f"{found['hbm'] / 2**30:.0f}", f"{found['flops']:.2e}"]
    cells += [f"{found['traffic'] / 2**30:.0f}" if found["traffic"] else "", f"{sent:.1f}"]
    for name in ("compute", "memory", "links"):
        cells.append(f"{1e3 * seconds[name]:.0f}" if name in seconds else "")
    cells += [f"{found['model_flops'] / found['chips'] / peak / seconds['compute']:.0%}"]
    return " " + " | ".join(cells) + " |"


def _compile(config, topology, batch, chunks):
    arguments = ["plan_table", f"--config={ROOT / 'configs' / config}.py", "--workdir=."]
    experiment = read_experiment(parse(arguments).config)
    devices = topology_devices(topology)
    return plan(experiment, devices, batch_size=batch, accumulation=chunks)


def _key(row) -> str:
    return " ".join(map(str, row))


if __name__ == "__main__":
    sys.exit(main())
