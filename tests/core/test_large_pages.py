"""Commands that compute on a CPU start again with large pages, once, where these are had."""

import os
import subprocess
import sys

import pytest

from toklip_jax.cli import command_line, running
from toklip_jax.core import large_pages

SETTING = "glibc.malloc.hugetlb=1"


@pytest.fixture
def on_request(monkeypatch, tmp_path):
    """A machine whose Linux gives large pages to programs that ask for them."""
    state = tmp_path / "enabled"
    state.write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "STATE", state)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    return state


def test_they_are_used_on_a_cpu(on_request):
    assert large_pages.are_useful({"JAX_PLATFORMS": "cpu"})


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_PLATFORMS": "tpu"},
        {"JAX_PLATFORMS": "cuda,cpu"},
        {"JAX_PLATFORMS": "cpu", "TOKLIP_LARGE_PAGES": "0"},
        {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"},
    ],
)
def test_what_is_configured_or_computes_elsewhere_is_left_alone(on_request, environment):
    assert not large_pages.are_useful(environment)


@pytest.mark.parametrize("state", ["[always] madvise never", "always madvise [never]"])
def test_they_are_not_asked_for_where_all_or_none_get_them(on_request, state):
    on_request.write_text(state)
    assert not large_pages.are_useful({"JAX_PLATFORMS": "cpu"})


@pytest.mark.parametrize("version", ["glibc 2.31", "musl 1.2", None])
def test_another_c_library_is_left_alone(on_request, monkeypatch, version):
    monkeypatch.setattr(os, "confstr", lambda name: version)
    assert not large_pages.are_useful({"JAX_PLATFORMS": "cpu"})


PROGRAM = """
import os, sys, pathlib
from toklip_jax.core import large_pages
large_pages.STATE = pathlib.Path(sys.argv[1])
large_pages.MIN_GLIBC = (0,)
large_pages.use_large_pages()
large_pages.say_if_used()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], "jax" in sys.modules)
"""


def test_the_command_starts_again_once_with_its_arguments(on_request, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"TOKLIP_LARGE_PAGES": "1", "JAX_PLATFORMS": "cpu"}
    environment |= {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    command = [sys.executable, program, on_request, "--text=two words", ""]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    both = f"glibc.malloc.check=0:{SETTING}"
    assert "TOKLIP_LARGE_PAGES=0 turns them off" in done.stderr
    assert done.stdout.strip() == f"{both} ['--text=two words', ''] False"


def test_runs_of_a_config_say_that_they_have_them_and_other_commands_do_not(monkeypatch, capsys):
    monkeypatch.setenv("GLIBC_TUNABLES", SETTING)
    assert running.run_plain([], running.plain_parser("embed", "Embeds."), lambda values: None) == 0
    assert "large pages" not in capsys.readouterr().err
    parser = command_line.config_parser("train", "Trains.")
    assert command_line.run(["--config=demo"], parser, lambda values, experiment: lambda: None) == 0
    assert "in large pages" in capsys.readouterr().err
