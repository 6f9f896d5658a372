"""The command `toklip`: its table, help, version, completion."""

import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from toklip_jax.cli.commands import COMMANDS
from toklip_jax.cli.completion import SCRIPTS, words_of
from toklip_jax.cli.toklip import main

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()
OURS = [c for c in COMMANDS if importlib.util.find_spec(c.module)]


def test_help_lists_the_commands_and_imports_none():
    code = (
        "import sys; from toklip_jax.cli.toklip import main; status = main(['--help'])\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  (\w+) ", done.stdout, re.M) == [c.name for c in COMMANDS]


def test_the_version_is_said(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"toklip {importlib.metadata.version('toklip_jax')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "got 'trian': did you mean 'train'?"),
        (["--weights=x"], "expected a command before flags, got --weights=x"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.name)
def test_every_command_has_help_and_is_on_the_page(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command.name, "--help"])
    assert ended.value.code == 0
    assert command.name in capsys.readouterr().out
    assert f"| `{command.name}" in PAGE


def test_the_flags_of_the_pages_examples_exist():
    parsers = {command.name: command.parser() for command in OURS}
    examples = re.findall(r"^    toklip (\w+) (.*(?:\\\n.*)*)", PAGE, re.M)
    assert len({name for name, _ in examples}) > 12
    for name, rest in examples:
        parser = parsers.get(name)
        inner = (parser, *parser.subcommands().values()) if parser else ()
        known = {string for one in inner for a in one.options() for string in a.option_strings}
        for flag in re.findall(r"(?<!\S)--([\w-]+)", rest) if parser else ():
            assert f"--{flag}" in known, (name, flag)


def test_the_script_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"toklip": "toklip_jax.__main__:main"}


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["tra"], "train"),
        (["train", "--work"], "--workdir="),
        (["train", "--mode", "=", "e"], "eval"),
        (["train", "--config", "=", "demo_g"], "demo_generation"),
        (["convert", "to-t"], "to-torch"),
        (["completion", "fi"], "fish"),
    ],
)
def test_bash_completes(words, completed, script):
    line = " ".join(f"'{word}'" for word in ["toklip", *words])
    code = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _toklip 2>/dev/null\n"
    code += 'echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == completed


@pytest.fixture(scope="module")
def script():
    return SCRIPTS["bash"](words_of(OURS))


def test_other_shells_get_the_same_words(script):
    fish, zsh = (SCRIPTS[shell](words_of(OURS)) for shell in ("fish", "zsh"))
    assert "__fish_seen_subcommand_from train' -l mode -r -a 'train eval'" in fish
    assert zsh.endswith(script.split("\n", 1)[1])
    assert "bashcompinit" in zsh
