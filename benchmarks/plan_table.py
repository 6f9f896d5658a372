"""Makes benchmarks/results/plan.md and plan.json: what the configs' steps take on TPU pods.

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
from toklip_jax.experiment import Experiment, read_experiment
from toklip_jax.planning.plan import plan, reduce_compile_effort, topology_devices

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

# Names of rows that are not a config's last stage as it stands: (config, stage, flags).
LENGTH = "source.length=2048"  # of lines, as in conversations
VARIANTS = {
    "qwen2.5_7b_projector": ("multimodal_qwen2_5_7b", "projector", (LENGTH,)),
    "qwen2.5_7b_lora_128": ("multimodal_qwen2_5_7b:lora=128", "instructions", ()),
    "qwen2.5_7b_full": ("multimodal_qwen2_5_7b", "instructions", ()),
    "qwen3_1.7b_one_model": ("one_model_qwen3_1_7b", "multimodal", ()),
}

# (config, topology, global batch, chunks): the released batch a chip first, then larger ones. A
# fifth number splits layers too (`mesh.tensor`), where a batch has fewer rows than there are chips.
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
    ("qwen2.5_7b_projector", "v5e:16x16", 256, 1),
    ("qwen2.5_7b_lora_128", "v5e:16x16", 128, 1, 2),
    ("qwen2.5_7b_full", "v5e:16x16", 128, 1, 2),
    ("qwen3_1.7b_one_model", "v5e:16x16", 256, 1),
    ("qwen2.5_7b_projector", "v5p:4x4x8", 256, 1),
    ("qwen2.5_7b_lora_128", "v5p:4x4x8", 128, 1),
    ("qwen2.5_7b_full", "v5p:4x4x8", 128, 1),
    ("qwen3_1.7b_one_model", "v5p:4x4x8", 256, 1),
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


def _compile(name, topology, batch, chunks, tensor=1):
    experiment, stage = read_row(name, f"mesh.tensor={tensor}")
    devices = topology_devices(topology)
    return plan(experiment, devices, stage=stage, batch_size=batch, accumulation=chunks)


def read_row(name: str, *overrides: str) -> tuple[Experiment, str]:
    """Returns the config of a row's name, with overrides of its fields, and the stage, "" its last.

    Args:
        name: one of `VARIANTS`, or a config's own.
        overrides: "field=value" each.
    """
    config, stage, fields = VARIANTS.get(name, (name, "", ()))
    config, colon, options = config.partition(":")
    path = f"{ROOT / 'configs' / config}.py{colon}{options}"
    flags = [f"--config.{x}" for x in (*(f"{stage}.{field}" for field in fields), *overrides)]
    arguments = [f"--config={path}", "--workdir=.", *flags]
    return read_experiment(parse(arguments).config), stage


def _key(row) -> str:
    return " ".join(map(str, row[:4]))


if __name__ == "__main__":
    sys.exit(main())
