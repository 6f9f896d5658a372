"""docs/comprehension_benchmarks.md has each benchmark, and its sections build."""

import ast
import dataclasses
import pathlib
import re

from toklip_jax.evaluation.comprehension import BENCHMARKS, build_benchmark

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "comprehension_benchmarks.md"


def sections():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    nodes = [node for block in blocks for node in ast.parse(block).body]
    return [ast.literal_eval(node.value) for node in nodes
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Dict)]  # fmt: skip


def test_every_benchmark_is_in_the_table():
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.M) == [
        "pope", "mme", "gqa", "vqav2", "textvqa", "seed_bench", "mmbench", "scienceqa", "mmmu",
    ]  # fmt: skip
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.M)) == set(BENCHMARKS)


def test_every_section_builds_and_all_fields_are_shown():
    shown = {kind: {"kind"} for kind in BENCHMARKS}
    for section in sections():
        build_benchmark(section)
        shown[section["kind"]] |= set(section)
    for kind, cls in BENCHMARKS.items():
        assert shown[kind] == {"kind"} | {field.name for field in dataclasses.fields(cls)}
