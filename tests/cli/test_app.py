"""The command of the page: its flags and its errors, without serving."""

import pathlib
import socket
import sys

import pytest

from toklip_jax.cli import app

VQ = pathlib.Path(__file__).parents[1] / "weights" / "format_1" / "vq"


def test_an_extra_that_is_missing_is_one_line(golden, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # as if it was not there
    assert app.main([f"--weights={golden('toklip_tiny/checkpoint.pt')}"]) == 2
    told = capsys.readouterr().err
    assert "expected the package uvicorn for the app" in told
    assert "pip install 'toklip_jax[app]'" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--max-files=0"], "expected --max-files of at least 1, got 0"),
        (["--max_upload_mb=-1"], "expected --max-upload-mb of at least 1"),
        (["--port=70000"], "a free port, got 127.0.0.1:70000"),
        (["--host=no.such.host.invalid"], "expected an address of this machine"),
        (["--generator=toklip_tiny/checkpoint.pt"], "an image generator in --generator"),
        (["--folder=no/such"], "expected a folder of pictures in --folder"),
        (["--model=toklip_tiny/checkpoint.pt"], "a multimodal model in --model"),
        (["--port=1", "--port=2"], "expected --port once"),
    ],
)
def test_wrong_flags_are_one_line(golden, capsys, flags, line):
    flags = [flag.replace("=toklip_tiny/", f"={golden('toklip_tiny')}/") for flag in flags]
    port = [] if any("--port" in flag for flag in flags) else ["--port=0"]
    assert app.main([f"--weights={golden('toklip_tiny/checkpoint.pt')}", *port, *flags]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


def test_a_vq_tokenizer_alone_needs_a_size(capsys):
    assert app.main([f"--weights={VQ}", "--port=0"]) == 2
    assert "expected --image-size=" in capsys.readouterr().err


def test_a_port_in_use_is_one_line(golden, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [f"--weights={golden('toklip_tiny/checkpoint.pt')}", f"--port={port}"]
        assert app.main(flags) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit):
        app.main(["--help"])
    told = capsys.readouterr().out
    for flag in ("--weights", "--generator", "--model", "--folder", "--host", "--port"):
        assert flag in told
