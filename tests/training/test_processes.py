"""Several hosts, and runs that are killed: the whole command, in processes of their own."""

import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from toklip_jax.training.logging import read_metrics
from toklip_jax.weights.read import read_weights

TESTS = pathlib.Path(__file__).parents[1]
CONFIG = TESTS / "training" / "tiny_run.py"
MESH = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
DEVICES = "--xla_force_host_platform_device_count"


def start(workdir, *flags, devices=1, **environment):
    command = [sys.executable, "-m", "toklip_jax.main", f"--config={CONFIG}"]
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags} | environment
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes, status=0):
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == status, output[-3000:]
    return outputs


def free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


@pytest.mark.slow  # what it is made of runs on two hosts in the default suite too
@pytest.mark.parametrize("stages", [("teacher",), ("vq", "teacher", "toklip")])
def test_two_processes_give_the_losses_and_the_evaluation_of_one(stages, tmp_path):
    last = stages[-1]
    flags = (
        *MESH,
        f"--config.stages={stages!r}",
        f"--config.{last}.loop.steps=10",
        f"--config.{last}.loop.evaluate_every=5",
    )
    if "toklip" not in stages:
        flags += ("--config.models.toklip=", "--config.evaluate=('pairs', 'meaning')")
    finish(start(tmp_path / "one", *flags, devices=8))
    together = {"TOKLIP_COORDINATOR": f"localhost:{free_port()}", "TOKLIP_NUM_PROCESSES": "2"}
    outputs = finish(
        *(
            start(tmp_path / "two", *flags, devices=4, TOKLIP_PROCESS_ID=str(i), **together)
            for i in range(2)
        )
    )
    assert f"{last} 10/10" in outputs[0]
    assert f"{last} 10/10" not in outputs[1]  # host 0 alone logs
    one, two = (read_metrics(tmp_path / name / last / "metrics.jsonl") for name in ("one", "two"))
    assert [r["step"] for r in two] == list(range(1, 11))
    names = {name for record in one for name in record} - {"speed"}
    assert "pairs/teacher/image_to_text_r1" in names
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    if "toklip" not in stages:  # counts alone, which are equal
        assert a["evaluations"] == b["evaluations"]
    a, b = (read_weights(tmp_path / name / last / "weights").params for name in ("one", "two"))
    chex.assert_trees_all_close(b, a, atol=1e-5)  # shapes too: frozen arrays are every host's whole
    assert {"validation/contrastive", "validation/image_to_text_r1", "loss"} <= names
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in names & a.keys():
            np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_parameters_of_one_left_alone(tmp_path):
    """The short form of `kill_resume.py`: one kill inside a save, one inside an evaluation."""
    compare = runpy.run_path(str(TESTS / "kill_resume.py"))["compare"]
    done = compare(tmp_path, times=2, steps=20, seed=0)
    assert done["after"] == {"save": 1, "evaluation": 1}


def test_sigterm_saves_and_exits_with_75_and_the_same_command_goes_on(tmp_path):
    flags = ("--config.stages=('teacher',)", "--config.teacher.loop.steps=100000")
    flags += ("--config.evaluate=()",)
    flags = (*flags, "--config.teacher.loop.save_every=100000")
    process = start(tmp_path / "run", *flags)
    metrics = tmp_path / "run" / "teacher" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(read_metrics(metrics)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    (output,) = finish(process, status=75)
    assert "the same command continues" in output
    (saved,) = [int(p.name) for p in (tmp_path / "run/teacher/checkpoints").glob("[0-9]*")]
    assert read_metrics(metrics)[-1]["step"] == saved
