"""launch/local.sh, with a stub in place of Python."""

import signal
import time

import pytest

MAIN = ["-m", "toklip_jax.main"]
SAVES = """
def end(number, frame):
    sys.exit({status})
signal.signal(signal.SIGTERM, end)
try:
    (root / "up").touch()
    # Else the terminal's Ctrl-C would reach it beside the script's signal, twice.
    assert os.getpgrp() == os.getpid()
    time.sleep(20)
except KeyboardInterrupt:  # which Python raises unless it was started with SIGINT ignored
    sys.exit(130)
"""


def wait_for(path):
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def test_one_process_gets_config_workdir_and_flags_and_all_devices(bench):
    bench.trainer(0)
    done = bench.run("local.sh", "--config.seed=1", "--mode=eval", CONFIG="a b.py", WORKDIR="w d")
    (call,) = bench.calls()
    assert done.returncode == 0
    assert call["args"] == [
        *MAIN,
        "--config=a b.py",
        "--workdir=w d",
        "--config.seed=1",
        "--mode=eval",
    ]
    assert call["environ"] == {}


def test_a_preempted_run_goes_on_until_it_is_done(bench):
    bench.trainer(75, 75, 0)
    done = bench.run("local.sh", RESTART_SECONDS="0")
    assert done.returncode == 0
    assert len(bench.calls()) == 3


@pytest.mark.parametrize("flag", ["--restart", "-restart", "--restart=true"])
def test_going_on_does_not_delete_the_run(bench, flag):
    bench.trainer(75, 0)
    bench.run("local.sh", flag, "--traceback", RESTART_SECONDS="0")
    first, second = (call["args"][4:] for call in bench.calls())
    assert first == [flag, "--traceback"]
    assert second == ["--traceback"]


@pytest.mark.parametrize("status", [1, 2, 130])
def test_what_is_no_preemption_is_not_started_again(bench, status):
    bench.trainer(status)
    assert bench.run("local.sh").returncode == status
    assert len(bench.calls()) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_is_forwarded_and_ends_the_run(bench, number, status):
    bench.stub("trainer", SAVES.format(status=75))
    process = bench.start("local.sh", RESTART_SECONDS="0")
    wait_for(bench.root / "up")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert len(bench.calls()) == 1


def test_several_processes_are_told_who_they_are(bench):
    bench.trainer(0, 0, 0)
    done = bench.run("local.sh", PROCESSES="3", DEVICES="2", PORT="1234")
    assert done.returncode == 0
    environs = [call["environ"] for call in bench.calls()]
    assert sorted(e.pop("TOKLIP_PROCESS_ID") for e in environs) == ["0", "1", "2"]
    for environ in environs:
        assert environ.pop("XLA_FLAGS").strip() == "--xla_force_host_platform_device_count=2"
        assert environ == {
            "TOKLIP_COORDINATOR": "localhost:1234",
            "TOKLIP_NUM_PROCESSES": "3",
            "JAX_PLATFORMS": "cpu",
        }


def test_when_one_process_fails_the_others_are_ended_and_its_status_is_given(bench):
    bench.stub("trainer", "len(calls) == 2 and sys.exit(2)" + SAVES.format(status=75))
    done = bench.run("local.sh", PROCESSES="2", RESTART_SECONDS="0")
    assert done.returncode == 2
    assert len(bench.calls()) == 2


def test_a_process_that_does_not_end_is_killed_after_the_grace(bench):
    ignores = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(20)\n"
    bench.stub("trainer", "len(calls) == 2 and (time.sleep(0.3), sys.exit(1))\n" + ignores)
    done = bench.run("local.sh", PROCESSES="2", GRACE_SECONDS="1")
    assert done.returncode == 1


def test_processes_that_were_preempted_go_on_together(bench):
    bench.trainer(75, 75, 0, 0)
    assert bench.run("local.sh", PROCESSES="2", RESTART_SECONDS="0").returncode == 0
    ids = [call["environ"]["TOKLIP_PROCESS_ID"] for call in bench.calls()]
    assert sorted(ids[:2]) == sorted(ids[2:]) == ["0", "1"]
