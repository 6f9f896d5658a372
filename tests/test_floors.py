"""Imports go downward only, nothing goes round in circles, and importing does nothing else."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

from toklip_jax.models.registry import FAMILIES as REGISTRY
from toklip_jax.models.registry import registered

PACKAGE = pathlib.Path(__file__).parents[1] / "toklip_jax"
# A name stands for the module or package and all in it. Rooms on one floor don't import each other.
FLOORS = (
    {"core"},
    {"parallel", "ops", "files", "costs"},
    {"losses", "metrics"},
    {"nn"},
    {"models", "data"},
    {"weights", "decoding", "training", "evaluation"},
    {"tasks"},
    {"experiment", "api"},
    {"app", "report", "planning"},
    {"run"},
    {"cli"},
    {
        "main",
        "benchmark",
        "chat",
        "convert",
        "encode",
        "generate",
        "plan",
        "demo",
        "__init__",
        "__main__",
    },
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Folders to which things are added: a family, a task or a kind of the demo's is named nowhere else.
FAMILIES = (
    "chameleon", "conv_vq", "emu3", "ibq", "inception", "llamagen", "magvit2", "qwen", "siglip",
    "t5",
    "taming", "unitok", "vila_u",
)  # fmt: skip


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # `from toklip_jax.losses import plain` imports a module, `from x import name` a name.
            for alias in node.names:
                inner = PACKAGE.parent / f"{node.module}.{alias.name}".replace(".", "/")
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def edges():
    for path in sorted(PACKAGE.rglob("*.py")):
        source = module_of(path)
        for target in imports_of(path):
            if target.split(".")[0] == "toklip_jax":
                yield source, target


def test_every_room_has_a_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__"} == set(FLOOR_OF)


def test_imports_go_downward_only():
    upward = []
    for source, target in edges():
        here, there = room_of(source), room_of(target)
        if here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
            upward.append(f"{source} imports {target}")
    assert not upward
    assert sum(1 for _ in edges()) > 100  # so that the test sees the imports at all


def test_no_imports_go_round_in_circles():
    graph = {}
    for source, target in edges():
        graph.setdefault(source.removesuffix(".__init__"), set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_only_the_experiment_and_the_command_line_see_a_config_dict():
    users = {
        module_of(path)
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "ml_collections" for name in imports_of(path))
        or "ConfigDict" in path.read_text()
    }
    # The last is a config, which stands in the package so that the notebooks find it.
    configs = {"toklip_jax.demo.shapes"}
    assert users == {"toklip_jax.experiment", "toklip_jax.cli.command_line"} | configs


def test_every_family_is_in_the_list_but_those_that_join_them():
    folders = {family.config.__module__.split(".")[2] for family in REGISTRY}
    assert folders - {"toklip", "generator", "multimodal"} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_imported_only_by_families_their_tasks_and_the_registry(family):
    users = {source for source, target in edges() if f"toklip_jax.models.{family}" in target}
    allowed = ("toklip_jax.models.", "toklip_jax.tasks.")
    others = {source for source in users if not source.startswith(allowed)}
    assert others <= ALLOWED.get(family, set())


ALLOWED = {
    # What is published of released sizes, and the features that FID compares.
    "llamagen": {"toklip_jax.evaluation.published"},
    "siglip": {"toklip_jax.evaluation.published"},
    "inception": {"toklip_jax.evaluation.fid"},
}


@pytest.mark.parametrize("room", ["training", "evaluation", "data", "api", "report", "run"])
def test_no_vq_tokenizer_is_named_outside_the_models(room):
    """So that changing the tokenizer changes no line there."""
    families = [family.name for family in registered() if family.role == "vq"]
    assert len(families) > 8
    pattern = re.compile(rf"\b({'|'.join(families)})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in (PACKAGE / room).rglob("*.py")
        for line in path.read_text().splitlines()
        if pattern.search(line)
    ]
    assert found == []


def test_init_files_only_hand_on_names():
    """But for the package's own, which hands them on once they are asked for."""
    for path in set(PACKAGE.rglob("__init__.py")) - {PACKAGE / "__init__.py"}:
        for node in ast.parse(path.read_text()).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_docstring or isinstance(node, ast.ImportFrom | ast.Assign), path


@pytest.mark.parametrize(
    "module",
    [
        "toklip_jax",
        "toklip_jax.main",
        "toklip_jax.run.run",
        "toklip_jax.convert.__main__",
        "toklip_jax.demo",
    ],
)
def test_import_is_silent_and_touches_neither_devices_nor_other_frameworks(module):
    check = (
        f"import sys, {module}\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was asked for'\n"
        "heavy = {'torch', 'tensorflow', 'matplotlib.pyplot', 'transformers', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_torch_is_imported_by_the_converter_alone():
    users = {
        module_of(path)
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "torch" for name in imports_of(path))
    }
    assert users <= {"toklip_jax.weights.writer"}
