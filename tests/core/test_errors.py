"""Errors of the user and of the program are two kinds, in every command."""

import ast
import errno
import io
import pathlib
import sys

import pytest

import toklip_jax
from toklip_jax.core.errors import (
    AlreadyExists,
    NotFinite,
    NotFound,
    StorageFailed,
    UserError,
    exit_status,
)

PACKAGE = pathlib.Path(toklip_jax.__file__).parent
# Another kind, or one that a library raises: what the package raises on purpose is a UserError.
NOT_RAISED = ("ValueError", "FileNotFoundError", "FileExistsError", "FloatingPointError")


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("expected a, got b"), "expected a, got b"),
        (NotFound("expected weights at x"), "expected weights at x"),
        (AlreadyExists("expected a new file"), "expected a new file"),
        (StorageFailed("expected room"), "expected room"),
        (PermissionError(errno.EACCES, "Permission denied", "x.json"), "got 'x.json' (Permission"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
    ],
)
def test_what_the_user_can_fix_is_one_line(error, line, capsys):
    assert exit_status(raising(error)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: expected")
    assert line in told
    assert told.count("\n") == 1
    with pytest.raises(type(error)):
        exit_status(raising(error), has_traceback=True)


def test_a_name_that_standard_output_cannot_hold_is_printed_escaped(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8", errors="strict"))
    assert exit_status(lambda: print("o/é\udcff: 1 images", flush=True)) == 0
    assert out.getvalue().decode() == "o/é\\udcff: 1 images\n"


def test_no_name_in_an_error_can_steer_a_terminal(capsys):
    assert exit_status(raising(NotFound("expected a file, found none at \x1b[2J\x07.tar"))) == 2
    told = capsys.readouterr().err
    assert told.rstrip("\n").isprintable()
    assert told.endswith(".tar\n")


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), OSError("a bug"), KeyError("a"), ConnectionResetError(104, "reset")],
)
def test_what_the_program_does_wrong_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        exit_status(raising(error))


def test_a_user_s_error_is_also_what_python_calls_it():
    assert issubclass(UserError, ValueError)
    assert issubclass(NotFound, FileNotFoundError)
    assert issubclass(AlreadyExists, FileExistsError)
    assert issubclass(StorageFailed, OSError)
    assert issubclass(NotFinite, FloatingPointError)


def test_the_package_raises_errors_of_the_user_as_such():
    """Wherever one is made: some are made by a function that others raise."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id in NOT_RAISED:
                wrong.append(f"{path.name}:{node.lineno} makes a {node.func.id}")
    assert not wrong


def test_every_kind_of_value_error_of_the_package_is_the_user_s():
    """A class of its own that is no UserError would end a command with a traceback."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
            if set(bases) & {*NOT_RAISED, "OSError"} and "UserError" not in [node.name, *bases]:
                wrong.append(f"{path.name}:{node.lineno} {node.name}")
    assert not wrong
