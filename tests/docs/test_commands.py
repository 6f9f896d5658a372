"""Every command that a page shows is read by its own parser: flags, configs and their fields."""

import itertools
import pathlib
import re
import shlex
import textwrap

import pytest

from toklip_jax.cli import chat, convert, encode, generate, plan, train
from toklip_jax.cli.command_line import experiment_of
from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import UserError
from toklip_jax.report import command as report

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


def _read_config(parse):
    return lambda arguments: experiment_of(parse(["command", *arguments]))


def _read_arguments(parser, repeatable=()):
    def read(arguments):
        parser().parse_args(arguments)
        expect_given_once(arguments, repeatable=repeatable)

    return read


PARSERS = {
    "main": _read_config(train.parse),
    "encode": _read_config(encode._parse),
    "plan": _read_config(plan._parse),
    "convert": _read_arguments(convert._parser),
    "generate": _read_arguments(generate._parser, repeatable=("text",)),
    "chat": _read_arguments(chat._parser, repeatable=("image", "question")),
    "report": _read_arguments(report._parser, repeatable=("phrase", "import")),
}


def read(command):
    """Parses a command; raises UserError, or SystemExit of argparse, for one that is wrong."""
    words = shlex.split(command, comments=True)
    words = list(itertools.takewhile(lambda word: word not in AFTER_IT, words))
    words = words[next(i for i, word in enumerate(words) if "=" not in word) :]
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        unknown = set(targets) - TARGETS
        if unknown:
            raise UserError(f"expected targets of the Makefile, got {unknown}")
        return
    PARSERS[words[2].removeprefix("toklip_jax.")](words[3:])


@pytest.mark.parametrize(
    ("page", "command"), ALL, ids=[f"{page.stem}: {command[:60]}" for page, command in ALL]
)
def test_it_is_read(page, command, monkeypatch, capsys):
    if WRITTEN_BY_THE_PAGE in command:
        pytest.skip("the page's own config: tests/docs/test_adding.py")
    monkeypatch.chdir(ROOT)
    try:
        read(command)
    except SystemExit as ended:  # argparse's, of a mistake or of --help
        if ended.code:
            pytest.fail(capsys.readouterr().err)


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
        "python -m toklip_jax.main --config=configs/demo.py --workdir=w --modee=eval",
        "python -m toklip_jax.main --config=configs/dmo.py --workdir=w",
        "python -m toklip_jax.main --config=configs/demo.py --workdir=w --config.vq.lop.steps=1",
    ],
)
def test_a_wrong_command_is_refused(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError):
        read(command)
