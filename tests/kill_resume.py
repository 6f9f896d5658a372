"""Does to a run what machines do, again and again, and compares its end to a run left alone.

    python tests/kill_resume.py --times=20 [--seed=0] [--steps=100] [--events=save,full]

Each time the run is started again and, a random moment after something that it does, one of these
happens (see `EVENTS`): the main process is killed by SIGKILL while it saves, evaluates or steps; a
worker process is killed; the main process is killed and a bit of its newest checkpoint flips; the
disk fills up. Exits with 0 if all parameters are equal to the last bit at the end, no worker has
outlived its main process, and a full disk was told in one line.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve()
KILLS = ("save", "evaluation", "step")
EVENTS = (*KILLS, "worker", "flip", "full")
SAVE_EVERY, EVALUATE_EVERY = 3, 5
REACH = {"save": 3, "evaluation": 2}  # of the next so many, one is the last; of steps:
STEPS = 16
ORPHAN_SECONDS = 15
DISK_BYTES = 2**28  # of the disk that is filled
FILLER, CHILDREN = "filler", "children.json"  # files beside the run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--events", type=lambda text: text.split(","), default=EVENTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        with small_disk(directory) as is_small:
            events = [event for event in options.events if event != "full" or is_small]
            if len(events) < len(options.events):
                print("NOT CHECKED: a full disk, as only root can mount one of some size")
            found = compare(
                directory, options.times, options.steps, options.seed, events, workers=1
            )
        print(json.dumps(found))


def compare(directory, times, steps, seed, events=KILLS, workers=0):
    """Runs both, and returns what was done; raises AssertionError where they differ."""
    rng, done, resumed_at = random.Random(seed), collections.Counter(), []
    alone = run(directory / "alone", ("none",), steps, workers, directory)
    assert alone.returncode == 0, alone.stderr
    workdir = directory / "disk" / "run"
    for time_number in range(times):
        event = events[time_number % len(events)]
        plan = (event, rng.randint(1, REACH.get(event, STEPS)), rng.uniform(0, 0.08))
        child = run(workdir, plan, steps, workers, directory)
        resumed_at.append(_newest(workdir))
        done[event] += 1
        is_early = child.returncode == 0
        assert not is_early, f"it ended before {event} number {time_number}: take more --steps"
        if event == "full":
            _expect_told(child)
            (directory / "disk" / FILLER).unlink()
            continue
        assert child.returncode == -signal.SIGKILL, f"{child.returncode}: {child.stderr}"
        _expect_no_orphans(directory / CHILDREN)
        if event == "flip":
            done["flipped"] += _flip_a_bit(workdir, rng)
    last = run(workdir, ("none",), steps, workers, directory)
    assert last.returncode == 0, last.stderr
    assert len(set(resumed_at)) > times // 5, f"it hardly advanced in between: {resumed_at}"
    alone, other = (
        (path / "teacher" / "weights" / "params.safetensors").read_bytes()
        for path in (directory / "alone", workdir)
    )
    assert alone == other, "the parameters differ"
    return {"times": times, "after": dict(done), "checkpoints_then": resumed_at}


def run(workdir, plan, steps, workers, directory):
    """Runs the command in a process of its own, in which `plan` happens."""
    command = [sys.executable, str(HERE), "child", str(directory), *map(str, plan), "--"]
    command += [
        f"--config={HERE.parent / 'training' / 'tiny_run.py'}",
        f"--workdir={workdir}",
        "--config.stages=('teacher',)",
        "--config.evaluate=()",
        f"--config.num_workers={workers}",
        f"--config.teacher.loop.steps={steps}",
        f"--config.teacher.loop.save_every={SAVE_EVERY}",
        f"--config.teacher.loop.evaluate_every={EVALUATE_EVERY}",
    ]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(directory / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def small_disk(directory):
    """Mounts a disk that is soon full at `directory`/disk; yields whether that could be done."""
    disk = directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(disk)], check=True)


def _newest(workdir):
    return max(_checkpoints(workdir), default=0)


def _checkpoints(workdir):
    names = (p.name for p in (workdir / "teacher" / "checkpoints").glob("*"))
    return [int(name) for name in names if name.isdigit()]


def _expect_told(child):
    errors = [line for line in child.stderr.splitlines() if line.startswith("error: ")]
    assert child.returncode == 2, f"status {child.returncode}: {child.stderr}"
    assert len(errors) == 1, child.stderr
    assert "space" in errors[0], errors
    # Orbax logs tracebacks of its own threads besides.


def _expect_no_orphans(path):
    left, deadline = json.loads(path.read_text()), time.monotonic() + ORPHAN_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [pid for pid in left if is_alive(pid)]
    assert not left, f"workers outlived their main process by {ORPHAN_SECONDS} s: {left}"


def is_alive(pid):
    """Returns whether a process is running; one that has ended and waits for its parent is not."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _flip_a_bit(workdir, rng):
    """Flips a bit somewhere in the newest checkpoint, unless it is the only one."""
    if len(_checkpoints(workdir)) < 2:
        return 0
    newest = workdir / "teacher" / "checkpoints" / str(_newest(workdir))
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return 1


def child(directory, event, after="0", delay="0", *, flags):
    """A run to which `event` happens, after the `after`-th time of what it is bound to."""
    from toklip_jax.cli.train import main as command
    from toklip_jax.run import stages
    from toklip_jax.training import loop
    from toklip_jax.training.checkpoints import Checkpoints

    directory, left = pathlib.Path(directory), collections.Counter()
    if event in KILLS:
        left[event] = int(after)
    elif event != "none":
        left["step"] = int(after)

    def count(what):
        left[what] -= 1
        if left[what] == 0:
            _happen(directory, event, float(delay), left)

    save, evaluation, fetch = Checkpoints.save, stages.validation, loop.put_batch

    def counted_save(self, *args, **others):
        count("save")
        return save(self, *args, **others)

    def counted_evaluation(*args, **others):
        evaluate = evaluation(*args, **others)

        def counted(params):
            count("evaluation")
            return evaluate(params)

        return counted

    def counted_fetch(*args):
        count("step")
        return fetch(*args)

    Checkpoints.save, stages.validation = counted_save, counted_evaluation
    loop.put_batch = counted_fetch
    return command([*flags])


def _happen(directory, event, delay, left):
    if event == "full":
        with contextlib.suppress(OSError), (directory / "disk" / FILLER).open("wb") as file:
            while True:
                file.write(bytes(2**16))
                file.flush()
        return
    workers = multiprocessing.active_children()
    if event == "worker" and not left["lost"]:
        os.kill(workers[0].pid, signal.SIGKILL)
        left["lost"], left["step"] = 1, STEPS  # it has to continue, and is killed there
        return
    (directory / CHILDREN).write_text(json.dumps([worker.pid for worker in workers]))
    threading.Thread(target=_kill, args=(delay,), daemon=True).start()


def _kill(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        end = sys.argv.index("--")
        sys.exit(child(*sys.argv[2:end], flags=sys.argv[end + 1 :]))
    main()
