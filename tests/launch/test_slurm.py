"""launch/slurm.sbatch, with stubs in place of Slurm's commands."""

import pathlib
import re
import signal
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "slurm.sbatch"
JOB = {"SLURM_JOB_ID": "17"}


@pytest.fixture
def slurm(bench):
    """`slurm(status, state)`: a step that ends with `status`, in a job that is in `state`."""

    def make(status, state="RUNNING"):
        bench.stub("srun", f"sys.exit({status})")
        bench.stub("squeue", f"print({state!r})")
        bench.stub("scontrol")
        bench.stub("scancel")
        return bench

    return make


def test_srun_starts_main_on_every_node_and_lets_all_tasks_save(slurm):
    bench = slurm(0)
    done = bench.run("slurm.sbatch", "--config.seed=1", CONFIG="c.py", WORKDIR="/s/w", **JOB)
    (call,) = bench.calls()
    assert done.returncode == 0
    assert call["name"] == "srun"
    main = [bench.environ["PYTHON"], "-m", "toklip_jax.main"]
    flags = ["--config=c.py", "--workdir=/s/w", "--config.seed=1"]
    assert call["args"] == ["--kill-on-bad-exit=0", "--wait=120", *main, *flags]


def test_a_preempted_job_is_requeued(slurm):
    bench = slurm(75)
    assert bench.run("slurm.sbatch", **JOB).returncode == 75
    assert [c["args"] for c in bench.calls("scontrol")] == [["requeue", "17"]]


@pytest.mark.parametrize("status", [0, 1, 2, 130, 137])
def test_what_is_no_preemption_is_not_requeued(slurm, status):
    bench = slurm(status)
    assert bench.run("slurm.sbatch", **JOB).returncode == status
    assert not bench.calls("scontrol")


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", ""])
def test_a_job_that_was_cancelled_is_not_requeued(slurm, state):
    bench = slurm(75, state)
    assert bench.run("slurm.sbatch", **JOB).returncode == 75
    assert not bench.calls("scontrol")


def test_a_requeued_job_does_not_delete_its_run(slurm):
    bench = slurm(0)
    bench.run("slurm.sbatch", "--restart", "--traceback", **JOB)
    bench.run("slurm.sbatch", "--restart", "--traceback", SLURM_RESTART_COUNT="1", **JOB)
    first, second = (call["args"] for call in bench.calls("srun"))
    assert first[-2:] == ["--restart", "--traceback"]
    assert "--restart" not in second
    assert second[-1] == "--traceback"


def test_the_signal_before_the_limit_reaches_the_tasks_and_the_job_is_requeued(slurm):
    bench = slurm(0)
    # The stub's tasks end as Slurm would end them: when scancel signals the steps, and not srun.
    bench.stub(
        "srun",
        "(root / 'up').touch()\n"
        "while not (root / 'signalled').exists(): time.sleep(0.05)\n"
        "sys.exit(75)\n",
    )
    bench.stub("scancel", "(root / 'signalled').touch()")
    process = bench.start("slurm.sbatch", **JOB)
    while not (bench.root / "up").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert [c["args"] for c in bench.calls("scancel")] == [["--signal=TERM", "17"]]
    assert [c["args"] for c in bench.calls("scontrol")] == [["requeue", "17"]]


def test_slurm_is_asked_for_what_going_on_needs():
    lines = SCRIPT.read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--requeue", "--open-mode=append", "--signal=B:TERM@120"} <= set(options)
    assert "--ntasks-per-node=1" in options
    # Slurm reads no option after the first command.
    first = next(i for i, line in enumerate(lines) if re.match(r"[^#\s]", line))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
