"""launch/tpu_pod.sh, with a stub gcloud whose workers are folders, and what it runs there real."""

import re
import time

import pytest

# `node` holds the slice's state; there is none where it is missing. Two workers.
GCLOUD = """
import shutil
node, workers = root / "node", [root / "worker-0", root / "worker-1"]
action = args[3]
if args[2] == "queued-resources":
    if action == "create":
        node.write_text((root / "next").read_text() if (root / "next").exists() else "ACTIVE")
        for worker in workers:
            worker.mkdir()
    elif not node.exists():
        sys.exit("ERROR: (gcloud) NOT_FOUND: Resource was not found")
    elif action == "describe":
        if (root / "offline").exists():
            (root / "offline").unlink()
            sys.exit("ERROR: (gcloud) could not reach metadata")
        state = node.read_text()
        print("WARNING: a new version is there", file=sys.stderr)
        print(state)
        if state in ("WAITING_FOR_RESOURCES", "SUSPENDING"):  # until it is asked again
            node.write_text({"SUSPENDING": "SUSPENDED"}.get(state, "ACTIVE"))
    elif action == "delete":
        node.unlink()
        for worker in workers:
            # What runs there still writes for a moment.
            worker.rename(root / f"gone-{worker.name}-{len(calls)}")
    sys.exit()
flags = dict(a.removeprefix("--").split("=", 1) for a in args if a.startswith("--"))
if not node.exists() or node.read_text() != "ACTIVE":
    sys.exit("ERROR: no such node")
for i, worker in enumerate(workers):
    if flags["worker"] not in ("all", str(i)):
        continue
    if action == "scp":
        shutil.copy(args[4], worker / args[5].split(":")[1])
    else:
        home = os.environ | {"HOME": str(worker)}
        subprocess.run(["bash", "-c", flags["command"]], cwd=worker, env=home, check=True)
"""
# `uv venv` leaves a Python, which is the stub `trainer`.
PYTHON3 = """
if args[:3] == ["-m", "uv", "venv"]:
    (python := pathlib.Path(args[-1], "bin", "python")).parent.mkdir(parents=True)
    python.symlink_to(root / "bin" / "trainer")
"""
GIT = """
import io, tarfile
name = next(a for a in args if a.startswith("--output=")).split("=", 1)[1]
with tarfile.open(name, "w:gz") as tar:
    tar.addfile(tarfile.TarInfo("setup.py"), io.BytesIO())
"""
PLACE = ["--zone=z", "--project=p"]
# A round is a start on both workers.
ROUND = "round = (len(calls) - 1) // 2\n"


@pytest.fixture
def pod(bench):
    bench.stub("gcloud", GCLOUD)
    bench.stub("python3", PYTHON3)
    bench.stub("git", GIT)
    bench.stub("sudo")
    bench.stub("mountpoint", "sys.exit(1)")
    bench.environ |= {"NAME": "n", "ZONE": "z", "PROJECT": "p", "POLL_SECONDS": "0.05"}
    bench.environ |= {"CONFIG": "c.py", "WORKDIR": "/mnt/toklip/w"}
    return bench


def gcloud(bench, *actions):
    return [c["args"] for c in bench.calls("gcloud") if c["args"][3] in actions]


def test_run_creates_waits_installs_starts_on_all_workers_and_gives_the_status(pod):
    (pod.root / "next").write_text("WAITING_FOR_RESOURCES")
    pod.stub("trainer", "sys.exit(0)")
    done = pod.run("tpu_pod.sh", "run", "--config.note=it's")
    assert done.returncode == 0, done.stderr
    (created,) = gcloud(pod, "create")
    assert created == [
        *("compute", "tpus", "queued-resources", "create", "n", *PLACE, "--node-id=n"),
        *("--accelerator-type=v6e-64", "--runtime-version=v2-alpha-tpuv6e", "--spot"),
    ]
    assert "WAITING_FOR_RESOURCES" in done.stderr
    (sent,) = gcloud(pod, "scp")
    assert sent[-1] == "--worker=all"
    trained = pod.calls("trainer")
    assert len(trained) == 2  # once on each worker
    for call in trained:
        flags = ["--config=c.py", "--workdir=/mnt/toklip/w", "--config.note=it's"]
        assert call["args"] == ["-m", "toklip_jax.main", *flags]
        assert call["environ"] == {"JAX_COORDINATOR_PORT": "8476"}
    assert not gcloud(pod, "delete")  # it costs until its user deletes it, and is told so
    assert "tpu_pod.sh delete" in done.stderr


def test_after_a_preemption_the_run_goes_on_on_the_same_slice_or_on_a_new_one(pod):
    pod.stub(
        "trainer",
        ROUND + "if round == 1:  # taken away\n"
        "    (root / 'node').write_text('SUSPENDING')\n"
        "    while (root / 'worker-0').exists(): time.sleep(0.05)\n"
        "sys.exit([75, 0, 0][round])\n",
    )
    done = pod.run("tpu_pod.sh", "run", "--restart", "--traceback")
    assert done.returncode == 0, done.stderr
    assert len(gcloud(pod, "create")) == 2
    assert gcloud(pod, "delete")[0][4:] == ["n", *PLACE, "--force", "--quiet"]
    assert len(gcloud(pod, "scp")) == 2  # a new slice has nothing installed, the first one had
    rounds = [call["args"][4:] for call in pod.calls("trainer")]
    assert rounds == [["--restart", "--traceback"]] * 2 + [["--traceback"]] * 4


def test_the_share_is_mounted_and_what_is_no_preemption_is_not_started_again(pod):
    pod.stub("trainer", "sys.exit(2)")
    done = pod.run("tpu_pod.sh", "run", SHARE="10.0.0.2:/s")
    assert done.returncode == 2
    assert len(pod.calls("trainer")) == 2
    mounts = [c["args"] for c in pod.calls("sudo") if "mount" in c["args"]]
    assert mounts == [["mount", "-t", "nfs", "10.0.0.2:/s", "/mnt/toklip"]] * 2


def test_a_request_that_fails_ends_with_a_hint(pod):
    (pod.root / "next").write_text("FAILED")
    done = pod.run("tpu_pod.sh", "run")
    assert done.returncode == 1
    assert "queued-resources describe n" in done.stderr
    assert not pod.calls("trainer")


def test_not_reaching_google_is_no_reason_to_create(pod):
    pod.stub("trainer", "sys.exit(0)")
    pod.run("tpu_pod.sh", "create")
    (pod.root / "offline").touch()
    done = pod.run("tpu_pod.sh", "create")
    assert done.returncode == 0
    assert "could not reach" in done.stderr
    assert len(gcloud(pod, "create")) == 1


def test_run_again_takes_up_the_run_that_is_there_and_stop_has_it_save(pod):
    pod.stub(
        "trainer",
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))\n"
        "(root / f'up-{len(calls)}').touch()\n"
        "time.sleep(20)\n",
    )
    first = pod.start("tpu_pod.sh", "run")
    while not all((pod.root / f"up-{i}").exists() for i in (1, 2)):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.kill()  # the laptop was closed; the run is not the laptop's
    first.communicate()
    again = pod.start("tpu_pod.sh", "run", "--restart")
    assert any("running; its log" in line for line in again.stderr)
    assert "run: running" in pod.run("tpu_pod.sh", "status").stdout
    assert pod.run("tpu_pod.sh", "stop").returncode == 0
    assert again.wait(timeout=20) == 75  # as it was asked to end, it is not started again
    assert len(pod.calls("trainer")) == 2
    assert "run: stopped" in pod.run("tpu_pod.sh", "status").stdout


def test_delete_deletes_what_is_there(pod):
    pod.run("tpu_pod.sh", "create", SPOT="0")
    assert "--spot" not in gcloud(pod, "create")[0]
    assert pod.run("tpu_pod.sh", "delete").returncode == 0
    assert len(gcloud(pod, "delete")) == 1
    assert "slice n: MISSING" in pod.run("tpu_pod.sh", "status").stdout


def test_logs_follow_one_worker(pod):
    pod.run("tpu_pod.sh", "create")
    pod.stub("tail", "print(args)")
    assert "run.log" in pod.run("tpu_pod.sh", "logs", "1").stdout
    assert "--worker=1" in gcloud(pod, "ssh")[-1]


def test_without_a_command_it_says_which_there_are(pod):
    done = pod.run("tpu_pod.sh")
    assert done.returncode == 2
    for command in ("run", "logs", "status", "stop", "create", "delete"):
        assert re.search(rf"tpu_pod.sh {command}\b", done.stderr), command
