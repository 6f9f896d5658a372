"""Compares the speed of two checkouts, in turns: each runs in a process of its own, kept warm.

    git worktree add ../before COMMIT
    python -m benchmarks.before_after --before=../before --parts=nearest,train_step,inference

Prints, for each part, the median seconds of both and their ratio (below 1: this checkout is
faster). Both sides see the same inputs; the first round warms up and is not counted.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parents[1]
ROUNDS = {"nearest": 15, "train_step": 9, "inference": 9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=pathlib.Path, required=True)
    parser.add_argument("--parts", default=",".join(ROUNDS))
    args = parser.parse_args()
    for part in args.parts.split(","):
        print(json.dumps(compare(part, args.before.resolve(), HERE)), flush=True)


def compare(part: str, before: pathlib.Path, after: pathlib.Path) -> dict:
    """Returns the medians of both checkouts and their ratio, and the ratio of every round."""
    workers = [_start(part, tree) for tree in (before, after)]
    seconds = [[_ask(worker, index) for worker in workers] for index in range(ROUNDS[part] + 1)]
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    old, new = (statistics.median(times) for times in zip(*seconds[1:], strict=True))
    ratios = [round(after / before, 3) for before, after in seconds[1:]]
    return {
        "part": part,
        "before_seconds": round(old, 4),
        "after_seconds": round(new, 4),
        "after_by_before": round(new / old, 3),
        "median_of_ratios": statistics.median(ratios),
        "rounds": ratios,
    }


def _start(part, tree):
    environment = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-P", __file__, "--worker", part]
    worker = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout.readline().strip() == f"ready {tree}"
    return worker


def _ask(worker, seed):
    worker.stdin.write(f"{seed}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def work(part: str) -> None:
    """Prints the seconds of one run for each seed that a line of the standard input holds."""
    import numpy as np

    import toklip_jax

    prepare = {"nearest": _nearest, "train_step": _train_step, "inference": _inference}[part]
    run, draw = prepare()
    print("ready", pathlib.Path(toklip_jax.__file__).parents[1], flush=True)
    for line in sys.stdin:
        inputs = draw(np.random.default_rng(int(line)))
        run(*inputs)  # memory that lay free while the other side ran is cold
        start = time.perf_counter()
        run(*inputs)
        print(time.perf_counter() - start, flush=True)


def _nearest():
    import jax

    from benchmarks import nearest
    from toklip_jax.ops.nearest import nearest_code

    search = jax.jit(nearest_code)
    return (
        lambda *inputs: search(*inputs).block_until_ready(),
        lambda random: nearest.unit_vectors(random, 65_536, 16_384, 8),
    )


def _train_step():
    import jax

    from benchmarks import train_step as bench

    setting = bench.SETTINGS["cpu"]
    objective = bench.objective_of(setting)
    params = bench.random_params(lambda key: objective.init(key))
    mesh = bench.make_mesh({"data": 1}, jax.devices()[:1])
    jax.set_mesh(mesh)
    step = bench.Ours(objective, params, mesh)
    return lambda *inputs: step(*step.place(*inputs)), lambda random: bench.draw(setting, random)


def _inference():
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks import inference as bench

    setting = bench.SETTINGS["cpu"][0]
    params = jax.tree.map(jnp.asarray, bench._params(setting))
    tokenizer = bench.Tokenizer(setting.size, params, setting.compute)
    side = setting.size.vision.image_size

    def run(images):
        ids = tokenizer.tokenize(images)
        return tokenizer.image_features(ids=ids).block_until_ready()

    return run, lambda random: (random.uniform(-1, 1, (1, side, side, 3)).astype(np.float32),)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        main()
