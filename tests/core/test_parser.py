"""Arguments as all commands read them."""

import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser, file_path, positive


def make():
    parser = Parser("toklip paint", "Paints.")
    parser.add_argument("folder")
    parser.flag("brush-size", "of the brush", type=positive, default=3)
    parser.flag("share", "of paint", type=float, default=1.0)
    parser.flag("colour", "the colour", choices=("red", "green"))
    parser.flag("palette", "a file", type=file_path)
    parser.flag("word", "may be repeated", action="append")
    parser.flag("weights", "the weights", required=True)
    parser.switch("dry-run", "paint nothing")
    return parser


def read(*arguments):
    return make().read(["photos", "--weights=w", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--brush-size=5", "--dry-run"),
        ("--brush_size=5", "--dry_run"),
        ("--brush_size", "5", "--dry-run=true"),
        ("-brush_size=5", "--dry_run=True"),
    ],
)
def test_every_spelling_is_read(arguments):
    values = read(*arguments)
    assert (values.folder, values.brush_size, values.dry_run) == ("photos", 5, True)


@pytest.mark.parametrize("argument", ["--nodry-run", "--no-dry-run", "--dry_run=false"])
def test_a_switch_is_turned_off(argument):
    assert not read(argument).dry_run


def test_an_empty_path_is_not_the_current_directory():
    with pytest.raises(UserError, match="in --palette, expected a path, got ''"):
        read("--palette=")


def test_a_path_with_a_nul_is_none():
    with pytest.raises(UserError, match=r"in --palette, expected a path, got 'a\\x00b'"):
        read("--palette=a\0b")


@pytest.mark.parametrize("arguments", [("",), ("--weights=w", "", "photos")])
def test_an_empty_argument_is_not_left_out(arguments):
    with pytest.raises(UserError, match="expected no empty argument, got ''"):
        make().read(arguments)


def test_a_value_may_begin_with_a_sign_or_hold_signs():
    assert read("--share=-1").share == -1
    assert read("--word=a=b", "--word=--c").word == ["a=b", "--c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--brush-sise=5"], "got --brush-sise: did you mean --brush-size?"),
        (["--zzz"], "got --zzz: see toklip paint --help"),
        (["--brush-size=0"], "in --brush-size, expected a whole number of at least 1, got '0'"),
        (["--share=x"], "expected a number for --share, got 'x'"),
        (["--colour=gren"], "expected one of red, green for --colour, got 'gren': did you mean"),
        (["--colour"], "expected a value, as --colour=..., got none"),
        (["--colour=red", "--colour=green"], "expected --colour once"),
        (["b.tar", "c.tar"], "expected FOLDER and flags only, got 'b.tar c.tar'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    with pytest.raises(UserError) as raised:
        read(*arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"expected folder and --weights=..., got none: see toklip"):
        make().read([])


def test_help_shows_flags_as_they_are_written(capsys):
    with pytest.raises(SystemExit):
        make().read(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: toklip paint FOLDER [FLAGS]\n")
    assert "--brush-size=BRUSH_SIZE" in text
    assert "of the brush (default: 3)" in text
    assert max(map(len, text.splitlines())) <= 100
