"""Flags as the commands read them, without running anything."""

import pathlib

import pytest

from toklip_jax.cli import convert, encode, plan
from toklip_jax.cli.command_line import experiment_of
from toklip_jax.cli.train import main, parse
from toklip_jax.core.errors import UserError

TINY = pathlib.Path(__file__).parents[1] / "training" / "tiny_run.py"


def parsed(*flags):
    flags = [f"--config={TINY}", "--workdir=runs/x", *flags]
    return experiment_of(parse([*flags]))


def test_another_kind_of_source_is_taken_from_flags():
    experiment = parsed("--config.source.kind=table", "--config.source.path=pairs.csv")
    assert experiment.source.to_plain() == {"kind": "table", "path": "pairs.csv"}
    experiment = parsed("--config.source.path=pairs.csv", "--config.source.kind=table")
    assert experiment.source.to_plain() == {"kind": "table", "path": "pairs.csv"}
    experiment = parsed(
        "--config.evaluations.pairs.source.kind=table",
        "--config.evaluations.pairs.source.path=pairs.csv",
        "--config.vq.validation=None",
        "--config.report.source.kind=image_folder",
        "--config.report.source.root=pictures",
    )
    assert experiment.report.source.arguments == {"root": "pictures"}
    assert experiment.evaluations["pairs"].source["path"] == "pairs.csv"


def test_a_field_that_the_file_leaves_out_is_taken_from_a_flag():
    assert parsed("--config.vq.loop.keep=7").sections["vq"].loop.keep == 7
    assert parsed("--config.distributed.kind=none").processes.kind == "none"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.source.kind=table"], "expected source.path, which table needs, got none"),
        (["--config.source.kind=tabel", "--config.source.path=a"], "did you mean 'table'"),
        (["--config.teacher.loop.stepz=3"], "did you mean 'steps'"),
        (["--config.vqq.loop.steps=3"], "did you mean 'vq'"),
        (["--config.seed.x=3"], "expected a section at --config.seed"),
        (["--config.source.num_samples=16", "--config.source.num_samples=24"], "num_samples once"),
        (["--workdir=runs/y"], "expected --workdir once"),
        (["--config.source.shards=a.tar", "b.tar"], "expected flags only, got 'b.tar': write"),
        (["--config.source.shards=a", "--config.source.shards=b"], "quote a pattern with braces"),
        (["--worker=3"], "expected a flag of toklip train, got --worker: did you mean --workdir?"),
        (["--restrat"], "did you mean --restart?"),
        (["--config.vq.loop.steps=many"], "many"),
        (["--config.evaluate=('pair',)"], "did you mean 'pairs'"),
        (["--config.vq.loop.checkpoints=foo://b/x"], "in loop.checkpoints, got foo://b/x"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys):
    assert main([f"--config={TINY}", "--workdir=runs/x", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import sys\ndef get_config(): sys.exit(3)", "in --config: SystemExit: 3"),
        ("def get_config(): return {}", "config.py to return a ConfigDict, got another"),
        ("def (", "in --config: SyntaxError"),
    ],
)
def test_a_config_file_that_gives_no_config_is_one_line(
    content, message, tmp_path, monkeypatch, capsys
):
    (tmp_path / "config.py").write_text(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--config=~/config.py", "--workdir=runs/x"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_effort_that_is_no_number_is_refused(capsys):
    assert plan.main([f"--config={TINY}", "--effort=nan"]) == 2
    assert "expected --effort from -1 to 1, got nan" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (main, ("--config", "--workdir", "--mode", "--restart")),
        (plan.main, ("--config", "--topology")),
        (encode.main, ("--output", "--parquet")),
    ],
)
def test_help_says_what_a_command_does_and_its_flags(command, flags, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        command([flag])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "usage: toklip " in text
    assert all(f"  {name}" in text for name in flags)


def test_help_of_the_converter_and_flags_given_twice(capsys):
    with pytest.raises(SystemExit) as ended:
        convert.main(["to-jax", "--help"])
    assert ended.value.code == 0
    assert convert.main(["to-jax", "a.pt", "b", "--num-heads=2", "--num_heads=3"]) == 2
    assert "expected --num-heads once" in capsys.readouterr().err


def test_a_traceback_is_shown_where_it_is_asked_for(capsys):
    flags = [f"--config={TINY}", "--workdir=runs/x", "--config.vqq.loop.steps=3"]
    with pytest.raises(UserError, match="did you mean 'vq'"):
        main([*flags, "--traceback"])
    assert main([*flags]) == 2


def test_an_error_of_the_program_is_none_of_the_user(monkeypatch, capsys):
    flags = [f"--config={TINY}", "--workdir=runs/x"]
    for error in (ValueError("a bug"), OSError("a bug"), TypeError("a bug")):

        def fail(*args, error=error, **options):
            raise error

        monkeypatch.setattr("toklip_jax.cli.train.run", fail)
        with pytest.raises(type(error), match="a bug"):
            main(flags)
    assert "error:" not in capsys.readouterr().err
