"""Makes benchmarks/results/costs.json and the table of docs/costs.md: what each recipe costs.

    python -m benchmarks.costs [--only=TEXT]

Counts the FLOPs of each recipe's step without compiling it, seconds each, and takes rooflines and
peak memory from the rows of benchmarks/results/plan.json that are of the same step. Recipes that
costs.json has are not counted again: delete it to start over.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import re
import sys

import jax

from benchmarks import plan_table
from toklip_jax.costs.chips import CHIPS, chip
from toklip_jax.models.generator.config import GeneratorConfig
from toklip_jax.models.registry import named_size
from toklip_jax.planning.plan import GIB
from toklip_jax.planning.step import build_step, find_stage
from toklip_jax.tasks.base import build_objective
from toklip_jax.tasks.generator.objective import GeneratorObjective

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "costs.json", ROOT / "docs" / "costs.md"
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
UTILISATION = 0.4  # of a chip's peak: what well-tuned training of transformers reaches
PLANNED = ("v5e:16x16", "v5p:4x4x8")  # topologies of the plans
PRICED = ("TPU v5 lite", "TPU v5", "NVIDIA H100 80GB HBM3")
HOUR = 3600
VQ = "vq_16"  # LlamaGen's tokenizer, whose ids the generators' caches hold


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One stage of a config.

    Attributes:
        title: what the table calls it.
        config: the config's name, with its options.
        stage: its stage; the last unless given.
        overrides: "field=value" each.
        plan: the name of its rows in plan.json; "" where none was compiled.
    """

    title: str
    config: str
    stage: str = ""
    overrides: tuple[str, ...] = ()
    plan: str = ""


def _recipes() -> tuple[Recipe, ...]:
    cached = ("generator.cache=cache",)
    found = [
        Recipe(f"TokLIP-{size.upper()}, {side} px", name, plan=name)
        for size, side in (("s", 256), ("l", 384), ("xl", 512))
        for name in (f"toklip_{size}_{side}",)
    ]
    found += [
        Recipe(f"GPT-{size.upper()} of classes, 256 px", f"gen_c2i_b_256:size={size}", "", cached)
        for size in ("b", "l", "xl", "xxl", "3b")
    ]
    found.append(Recipe("GPT-XL of captions, 256 px", "gen_t2i_xl", "", cached))
    for size in ("0.5b", "1.5b", "7b"):
        title, config = f"Qwen2.5-{size.upper()} and TokLIP-L", f"multimodal_qwen2_5_7b:size={size}"
        lora, is_planned = f"{config},lora=128", size == "7b"
        found += [
            Recipe(f"{title}: projector", config, "projector"),
            Recipe(f"{title}: LoRA 128", lora, plan="qwen2.5_7b_lora_128" * is_planned),
            Recipe(f"{title}: full", config, plan="qwen2.5_7b_full" * is_planned),
        ]
    one = Recipe("Qwen3-1.7B as one model", "one_model_qwen3_1_7b", plan="qwen3_1.7b_one_model")
    return (*found, one)


RECIPES = _recipes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="recipes whose title has this text")
    only = parser.parse_args().only
    jax.config.update("jax_platforms", "cpu")
    for recipe in RECIPES:
        rows = read()
        if only in recipe.title and recipe.title not in rows:
            rows[recipe.title] = count(recipe)
            ordered = {r.title: rows[r.title] for r in RECIPES if r.title in rows}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    write_page(table(read(), plan_table.read()))


def read() -> dict:
    """Returns what costs.json has, by the recipes' titles."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def count(recipe: Recipe) -> dict[str, int]:
    """Returns a recipe's numbers: parameters, bytes of all devices together, steps and FLOPs."""
    experiment, _ = plan_table.read_row(recipe.config, *recipe.overrides)
    stage = find_stage(experiment, recipe.stage)
    step = build_step(experiment, stage, objective=_generator(stage, experiment.compute))
    trained, frozen = step.state.params, step.frozen
    return {
        "trained": _size(trained),
        "frozen": _size(frozen),
        "bytes": sum(map(_bytes, (trained, step.state.ema, step.state.opt_state, frozen))),
        "batch": stage.batch_size,
        "steps": stage.loop.steps,
        "step_flops": step.model_flops(),
    }


def table(rows: dict, plans: dict) -> str:
    """Returns Markdown: a line a recipe; chip hours of the whole recipe, memory in GiB."""
    names = [chip(kind).name.removeprefix("TPU ") for kind in PRICED]
    header = ["recipe", "trained, M", "frozen, M", "state, GiB", "batch", "steps"]
    header += ["TFLOP a step", "EFLOP in all"]
    header += [f"peak a {name.split(':')[0]} chip, GiB" for name in PLANNED]
    header += [f"roofline, {name.split(':')[0]} hours" for name in PLANNED]
    header += [f"at {UTILISATION:.0%}, {name} hours" for name in names]
    lines = [f"| {' | '.join(header)} |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    for recipe in RECIPES:
        if recipe.title in rows:
            lines.append(f"| {' | '.join(_cells(recipe, rows[recipe.title], plans))} |")
    return "\n".join(lines) + "\n"


def write_page(text: str) -> None:
    """Puts the table into docs/costs.md, in place of the one that is there."""
    pattern = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: f"{START}{text}{END}", PAGE.read_text()))


def _cells(recipe, row, plans):
    flops = row["step_flops"] * row["steps"]
    cells = [recipe.title, f"{row['trained'] / 1e6:,.0f}", f"{row['frozen'] / 1e6:,.0f}"]
    cells += [f"{row['bytes'] / GIB:.1f}", f"{row['batch']:,}", f"{row['steps']:,}"]
    cells += [f"{row['step_flops'] / 1e12:,.0f}", f"{flops / 1e18:,.1f}"]
    found = [_planned(recipe, row, topology, plans) for topology in PLANNED]
    cells += ["" if plan is None else f"{plan['peak'] / GIB:.1f}" for plan in found]
    for plan in found:
        cells.append("" if plan is None else _hours(_roofline(plan) * row["batch"] * row["steps"]))
    cells += [_hours(flops / UTILISATION / CHIPS[kind].bf16_flops) for kind in PRICED]
    return cells


def _planned(recipe, row, topology, plans):
    """The plan of a recipe's step: the largest batch in one chunk that is not above its own."""
    found = {}
    for key, plan in plans.items():
        name, where, batch, chunks = key.split()
        if plan and (name, where, chunks) == (recipe.plan, topology, "1"):
            found[int(batch)] = plan
    return max((x for x in found.items() if x[0] <= row["batch"]), default=(0, None))[1]


def _roofline(plan):
    """Chip seconds of a row of the batch: those of a step at the longest of its times."""
    return max(plan["seconds"].values()) * plan["chips"] / plan["batch"]


def _hours(seconds):
    return f"{seconds / HOUR:,.0f}" if seconds >= 10 * HOUR else f"{seconds / HOUR:.1f}"


def _generator(stage, compute):
    """The objective of a generator, whose config names its tokenizer by a file; None for others."""
    if stage.task != "generator":
        return None
    config = GeneratorConfig(stage.model.model, named_size(VQ, "vq"))
    return build_objective(GeneratorObjective, stage, model_config=config, compute=compute)


def _size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    sys.exit(main())
