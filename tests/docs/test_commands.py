"""Every command that a page shows is read by its own parser: flags, configs and their fields."""

import itertools
import pathlib
import re
import shlex
import textwrap

import pytest

from toklip_jax.cli.command_line import experiment_of, parse
from toklip_jax.cli.commands import COMMANDS
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
INDENTED = re.compile(r"(?:^(?: {4,}.*)?\n)+", re.M)
PROGRAM = re.compile(r"(?:\w+=\S+ )*(python -m toklip_jax\.\w+|toklip [a-z]|make [a-z])")
PLACEHOLDER = re.compile(r"\[flags\]|(?:^| )\.\.\.(?= |$)")
VARIABLE = re.compile(r'^(\w+)="(.*?)"$', re.M | re.S)
AFTER_IT = ("|", ">", "<", "&&", "||", ";", "&")  # what the shell reads
ANY_CONFIG = "configs/demo.py"  # where a page writes CONFIG
WRITTEN_BY_THE_PAGE = "my_config.py"  # tests/docs/test_adding.py runs it


def commands_of(text):
    """The commands of a page's blocks, each in one line, without placeholders and comments."""
    return [command for block in _blocks(text) for command in _commands(block)]


def _blocks(text):
    for _, language, block in FENCE.findall(text):
        if language in ("", "sh", "bash", "shell", "console"):
            yield textwrap.dedent(block)
    for block in INDENTED.findall(FENCE.sub("\n", text)):
        yield textwrap.dedent(block)


def _commands(block):
    block = block.replace("\\\n", " ")
    variables = dict(VARIABLE.findall(block))
    for line in block.splitlines():
        line = line.strip().removeprefix("$ ")
        if not PROGRAM.match(line):
            continue
        line = re.sub(r"\$(\w+)", lambda found: variables[found[1]], line)
        line = PLACEHOLDER.sub("", line).replace("=CONFIG", f"={ANY_CONFIG}")
        yield re.sub(r"\[(--.*?)\](?= |$)", r"\1", line)  # what is optional is given


ALL = [(page, command) for page in PAGES for command in commands_of(page.read_text())]


PARSERS = {command.name: command.parser for command in COMMANDS}
DOORS = re.compile(r"^toklip_jax\.(main$)?")  # `python -m toklip_jax.main` is `toklip train`
WITH_A_CONFIG = ("train", "eval", "encode", "plan")


def read(command):
    """Parses a command; raises UserError for one that is wrong, and SystemExit for --help."""
    words = shlex.split(command, comments=True)
    words = list(itertools.takewhile(lambda word: word not in AFTER_IT, words))
    words = words[next(i for i, word in enumerate(words) if "=" not in word) :]
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        unknown = set(targets) - TARGETS
        if unknown:
            raise UserError(f"expected targets of the Makefile, got {unknown}")
        return
    if words[0] == "python":
        words = ["toklip", DOORS.sub("", words[2]) or "train", *words[3:]]
    _, name, *arguments = words
    parser = PARSERS[check_name("a command", name, PARSERS)]()
    if name in WITH_A_CONFIG:
        experiment_of(parse(arguments, parser))
    else:
        parser.read(arguments)


@pytest.mark.parametrize(
    ("page", "command"), ALL, ids=[f"{page.stem}: {command[:60]}" for page, command in ALL]
)
def test_it_is_read(page, command, monkeypatch):
    if WRITTEN_BY_THE_PAGE in command:
        pytest.skip("the page's own config: tests/docs/test_adding.py")
    monkeypatch.chdir(ROOT)
    try:
        read(command)
    except SystemExit as ended:  # of --help
        if ended.code:
            pytest.fail(f"status {ended.code}")


def test_the_commands_of_a_page_are_found():
    text = textwrap.dedent("""\
        Text, then

            flags="--config.source.kind=table \\
                --config.source.path=a.csv"
            python -m toklip_jax.main --config=configs/demo.py $flags [flags]
            A=b make demo  # a comment
            another program

        ```sh
        python -m toklip_jax.chat [--image=a.png] --weights=w ...
        ```
        """)
    chat, demo, make = commands_of(text)
    assert "--config.source.path=a.csv" in demo
    assert "flags" not in demo
    assert make == "A=b make demo  # a comment"
    assert chat.split() == ["python", "-m", "toklip_jax.chat", "--image=a.png", "--weights=w"]
    assert len(ALL) > 40


@pytest.mark.parametrize(
    "command",
    [
        "make dmo",
        "toklip trian --config=demo --workdir=w",
        "toklip tokenize photos ids.npz --weigths=w",
        "python -m toklip_jax.main --config=configs/demo.py --workdir=w --modee=eval",
        "python -m toklip_jax.main --config=configs/dmo.py --workdir=w",
        "python -m toklip_jax.main --config=configs/demo.py --workdir=w --config.vq.lop.steps=1",
    ],
)
def test_a_wrong_command_is_refused(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError):
        read(command)
