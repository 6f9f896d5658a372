"""Imports go downward only, and importing the package does nothing else."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "toklip_jax"
# A name stands for the module or package and all in it. Units on one floor don't import each other.
FLOORS = (
    {"ops", "files", "fields", "sharding", "distributed", "flops", "chips", "hlo", "compile_cache"},
    {"models", "losses", "contrastive", "metrics", "data", "command_line"},
    {"weights", "checkpoint", "evaluation"},
    {"convert"},
    {"training", "tokenizer"},
    {"evaluate", "encode", "report"},
    {"run"},
    {"main", "__init__"},
    {"plan"},
)
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}


def unit_of(module):
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
            # `from toklip_jax import losses` imports the module, not a name of the package.
            is_root = node.module == "toklip_jax"
            yield from (f"{node.module}.{a.name}" if is_root else node.module for a in node.names)


def edges():
    for path in sorted(PACKAGE.rglob("*.py")):
        source = module_of(path)
        for target in imports_of(path):
            if target.split(".")[0] == "toklip_jax":
                yield source, target


def test_every_unit_has_a_floor():
    units = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert units - {"__pycache__"} == set(FLOOR_OF)


def test_imports_go_downward_only():
    upward = []
    for source, target in edges():
        here, there = unit_of(source), unit_of(target)
        if here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
            upward.append(f"{source} imports {target}")
    assert not upward
    assert sum(1 for _ in edges()) > 100  # so that the test sees the imports at all


def test_init_files_only_hand_on_names():
    for path in PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text()).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_docstring or isinstance(node, ast.ImportFrom | ast.Assign), path


@pytest.mark.parametrize(
    "module", ["toklip_jax", "toklip_jax.main", "toklip_jax.run", "toklip_jax.convert.__main__"]
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
    assert users <= {"toklip_jax.convert.writer"}
