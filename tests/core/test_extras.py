"""The core runs without the extras' packages, and whatever needs one of them says so in a line."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import toklip_jax
from toklip_jax.core.errors import UserError, is_users, line_for_user
from toklip_jax.core.extras import EXTRA_OF, MODULES, missing_line
from toklip_jax.core.imports import import_extra, start_command

PACKAGE = pathlib.Path(toklip_jax.__file__).parent
PROJECT = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
WEIGHTS = PACKAGE.parent / "tests" / "weights" / "format_1" / "toklip"
# Modules whose package has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
}
OPTIONAL = {"wandb"}  # in no extra: the config's section that asks for it names it

# Makes the extras' packages look as if they weren't installed.
BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(EXTRA_OF)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
CORE = """
import numpy as np
import toklip_jax

toklip = toklip_jax.load(sys.argv[1])
ids = toklip.tokenize(np.zeros((1, *toklip.config.vision.size, 3), np.uint8))
toklip.semantic_tokens(ids)
toklip.detokenize(ids)
features = toklip.image_features(ids=ids)
texts = toklip.text_features(np.ones((2, toklip.config.text.context_length), np.int32))
assert toklip.similarity(features, texts).shape == (1, 2)
"""
# Commands, and calls, each with the extra whose line it ends with.
DOORS = {
    "toklip_jax.cli.train": "train",
    "toklip_jax.cli.encode": "train",
    "toklip_jax.cli.plan": "train",
    "toklip_jax.report.command": "train",
}
START = """
from toklip_jax.core.imports import start_command
for name in sys.argv[1:]:
    assert start_command(name, ["--config=configs/demo.py", "--workdir=x"]) == 2
"""
CALLS = {
    "load_tokenizer(folder)": "chat",
    "write_checkpoint(folder / 'x.pt', {'x': np.zeros(1)})": "torch",
    "toklip_jax.load(weights, param_dtype='int8')": "int8",
    "export(toklip_jax.load(weights), folder / 'out')": "export",
}
CALL = """
import pathlib
import numpy as np
import toklip_jax
from toklip_jax.api.chat import load_tokenizer
from toklip_jax.api.export import export
from toklip_jax.core.errors import exit_status
from toklip_jax.weights.writer import write_checkpoint

weights, folder, *calls = sys.argv[1:]
folder = pathlib.Path(folder)
(folder / "tokenizer.json").write_text("{}")
for call in calls:
    assert exit_status(lambda: eval(call)) == 2
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def names_in(requirements):
    names = {re.match(r"[\w.-]+", line)[0] for line in requirements}
    return {name.lower().replace("_", "-") for name in names}


def distribution_of(module):
    return DISTRIBUTIONS.get(module, module).lower().replace("_", "-")


def modules_imported():
    """The top names of all that the package imports, anywhere in its modules."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module.split(".")[0]


def test_every_import_is_a_dependency_or_an_extras():
    core = names_in(PROJECT["project"]["dependencies"])
    others = set(modules_imported()) - set(sys.stdlib_module_names) - {"toklip_jax"} - OPTIONAL
    assert {m for m in others if distribution_of(m) not in core} <= set(EXTRA_OF)
    assert not {m for m in EXTRA_OF if distribution_of(m) in core}


@pytest.mark.parametrize("extra", MODULES)
def test_an_extra_installs_its_modules(extra):
    listed = names_in(PROJECT["project"]["optional-dependencies"][extra])
    assert {distribution_of(module) for module in MODULES[extra]} <= listed


def test_loading_tokenizing_embedding_and_decoding_need_no_extra():
    done = run(CORE, WEIGHTS)
    assert done.returncode == 0, done.stderr


def expect_lines(done, extras):
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    for line, extra in zip(lines, extras, strict=True):
        assert re.fullmatch(rf"error: expected .*: pip install 'toklip_jax\[{extra}\]'", line)


def test_a_command_whose_extra_is_missing_says_so_in_one_line():
    expect_lines(run(START, *DOORS), DOORS.values())


def test_a_call_whose_extra_is_missing_says_so_in_one_line(tmp_path):
    expect_lines(run(CALL, WEIGHTS, tmp_path, *CALLS), CALLS.values())


def test_an_import_in_the_midst_of_a_command_is_the_users_too():
    missing = ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet")
    assert is_users(missing)
    assert line_for_user(missing) == missing_line("pyarrow")
    other = ModuleNotFoundError("No module named 'x'", name="x")
    assert not is_users(other)


def test_a_module_that_is_no_extras_is_the_programs_error(monkeypatch):
    with pytest.raises(ModuleNotFoundError) as raised:
        import_extra("no_such_module")
    assert not isinstance(raised.value, UserError)
    with pytest.raises(ModuleNotFoundError):
        start_command("no_such_module", [])
