"""Kills a run with SIGKILL again and again, and compares what it ends with to a run left alone.

    python tests/kill_resume.py --kills=20 [--seed=0] [--steps=100]

Each time the run is started again and killed a random moment after something it does: starting a
save, starting an evaluation, or any step. Exits with 0 if all parameters are equal to the last bit.
"""

import argparse
import collections
import json
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
EVENTS = ("save", "evaluation", "step")
SAVE_EVERY, EVALUATE_EVERY = 3, 5
REACH = {"save": 3, "evaluation": 2, "step": 16}  # of the next so many, one is the last


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(compare(pathlib.Path(directory), **vars(options))))


def compare(directory, kills, steps, seed):
    """Runs both, and returns what was done; raises AssertionError where they differ."""
    rng, done = random.Random(seed), collections.Counter()
    flags = [
        f"--config={HERE.parent / 'training' / 'tiny_run.py'}",
        "--config.stages=('teacher',)",
        "--config.evaluate=()",
        f"--config.teacher.loop.steps={steps}",
        f"--config.teacher.loop.save_every={SAVE_EVERY}",
        f"--config.teacher.loop.evaluate_every={EVALUATE_EVERY}",
    ]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(directory / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }

    def run(name, *plan):
        command = [sys.executable, str(HERE), "child", *map(str, plan), "--", *flags]
        command.append(f"--workdir={directory / name}")
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    left_alone = run("alone", "none", 0, 0)
    assert left_alone.returncode == 0, left_alone.stderr
    resumed_at = []
    while True:
        is_killing = sum(done.values()) < kills
        event = EVENTS[sum(done.values()) % len(EVENTS)] if is_killing else "none"
        child = run("killed", event, rng.randint(1, REACH.get(event, 1)), rng.uniform(0, 0.08))
        if child.returncode == -signal.SIGKILL:
            done[event] += 1
            resumed_at.append(_newest(directory / "killed"))
            continue
        assert child.returncode == 0, child.stderr
        break
    assert sum(done.values()) == kills, f"the run ended before its kill number {kills}"
    assert len(set(resumed_at)) > kills // 5, f"it hardly went on in between: {resumed_at}"
    alone, killed = (
        (directory / name / "teacher" / "weights" / "params.safetensors").read_bytes()
        for name in ("alone", "killed")
    )
    assert alone == killed, "the parameters differ"
    return {"kills": sum(done.values()), "after": dict(done), "checkpoints_then": resumed_at}


def _newest(workdir):
    names = [p.name for p in (workdir / "teacher" / "checkpoints").glob("*") if p.name.isdigit()]
    return max(map(int, names), default=0)


def child(event, after, delay, flags):
    """A run that kills itself `delay` seconds after `event` has begun for the `after`-th time."""
    from toklip_jax.main import main as run
    from toklip_jax.run import stages
    from toklip_jax.training import loop
    from toklip_jax.training.checkpoints import Checkpoints

    left = [int(after)]

    def count(what):
        if what == event:
            left[0] -= 1
            if left[0] == 0:
                threading.Thread(target=_kill, args=(float(delay),), daemon=True).start()

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
    return run(["main", *flags])


def _kill(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        sys.exit(child(*sys.argv[2:5], sys.argv[6:]))
    main()
