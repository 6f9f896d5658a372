"""What holds for every launch script."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from toklip_jax.cli import train

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh")
CHECKED = [*(LAUNCH / name for name in SCRIPTS), *sorted((LAUNCH.parent / "tools").glob("*.sh"))]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck is in the extra `test`"
    done = subprocess.run(
        [shellcheck, "--shell=bash", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_no_process_is_ended_by_name(path):
    text = path.read_text()
    assert not re.search(r"\b(pkill|killall|pgrep|fuser)\b|kill\s+-?\d*\s*-1\b", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_of_main_that_a_script_names_exists(name):
    known = {string for action in train.parser().options() for string in action.option_strings}
    text = (LAUNCH / name).read_text()
    command = "\n".join(line for line in text.splitlines() if "toklip_jax.main" in line)
    flags = set(re.findall(r"--(\w+)=\"?\$", command))
    assert {"config", "workdir"} <= flags
    for flag in flags | {"restart"}:
        assert f"--{flag}" in known
