"""The wheel's check runs the README's first commands as they are, and ends where one fails."""

import importlib.util
import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CHECK = (ROOT / "tools" / "check_wheel.sh").read_text()
HEADINGS = [
    heading
    for words in re.findall(r"first_commands\.py\"((?: \"[^\"]+\")+)", CHECK)
    for heading in re.findall(r'"(.+?)"', words)
]
STARTS = {
    "Install": "pip install .",
    "Five lines": "import toklip_jax",
    "From a shell": "toklip models",
    "The demo": "make demo",
}


@pytest.fixture(scope="module")
def first_commands():
    path = ROOT / "tools" / "first_commands.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_wheel_is_checked_with_the_first_commands(first_commands):
    blocks = {heading: first_commands.first_block(heading, README)[-1] for heading in HEADINGS}
    assert set(blocks) == set(STARTS)
    for heading, start in STARTS.items():
        assert blocks[heading].startswith(start)
    for command in re.findall(r"^    (toklip .*)\n", README, re.M):
        assert command in blocks["From a shell"]


def test_a_heading_without_a_block_ends_it(first_commands):
    text = "## First\n\ntext\n\n## Second\n\n    true\n"
    assert first_commands.first_block("Second", text)[-1] == "true\n"
    with pytest.raises(SystemExit, match="under '## First' of README"):
        first_commands.first_block("First", text)


@pytest.mark.parametrize("block", ["```python\n1 / 0\n```\n", "    false\n    true\n"])
def test_a_block_that_fails_ends_it(first_commands, block):
    command = first_commands.first_block("First", f"## First\n\n{block}")
    with pytest.raises(SystemExit, match=r"status 1 of what README\.md has first under '## First'"):
        first_commands.run("First", command, dict(os.environ))
