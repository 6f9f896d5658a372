"""Measures the cost of starting: the import, and loading converted weights of a real size.

    python -m benchmarks.loading --layers=27

writes random TokLIP weights of S-256 (`--layers` cuts its depth), loads them in processes of their
own, and prints seconds and peak memory as a multiple of the parameters. Linux only.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import flax.traverse_util
import jax
import numpy as np

from benchmarks.timing import against_bar, machine
from toklip_jax.files import LazyArray
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights, save_weights

IMPORT_SECONDS, PEAK_OVER_PARAMETERS = 1.5, 1.2  # at most
REPETITIONS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=27, help="of each tower; 27 is the real size")
    args = parser.parse_args()
    print(json.dumps(measure(args.layers), indent=2))


def measure(layers: int = 27) -> dict:
    """Returns seconds and peak memory of the import and of `load`."""
    imports = [run("import toklip_jax") for _ in range(REPETITIONS)]
    base = statistics.median(memory for _, memory in imports)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights"
        size = write(path, layers)
        loads = [
            run(f"import toklip_jax; toklip_jax.load({str(path)!r}, tokenizer=None)")
            for _ in range(3)
        ]
    start, load = (statistics.median(seconds for seconds, _ in runs) for runs in (imports, loads))
    peak = (statistics.median(memory for _, memory in loads) - base) / size
    what = f"load of {size / 2**30:.2f} GiB"
    return {
        "machine": machine(),
        "rows": [
            {"what": "import toklip_jax", "value": start, "unit": "s"}
            | against_bar(start, IMPORT_SECONDS, is_most=True),
            {"what": what, "value": load, "unit": "s"},
            {"what": f"{what}: peak memory by parameters", "value": peak}
            | against_bar(peak, PEAK_OVER_PARAMETERS, is_most=True),
        ],
    }


def write(path: pathlib.Path, layers: int) -> int:
    """Writes random weights, array by array; returns their bytes."""
    config = TOKLIP_SIZES["toklip_s_256"]
    vision = dataclasses.replace(config.vision, depth=layers)
    text = dataclasses.replace(config.text, depth=layers, tokenizer="")
    config = dataclasses.replace(config, vision=vision, text=text)
    side, length = vision.image_size, text.context_length
    shapes = jax.eval_shape(
        TokLIP(config, Compute()).init,
        jax.random.key(0),
        np.zeros((1, side, side, 3), np.float32),
        np.zeros((1, length), np.int32),
    )["params"]
    random = np.random.default_rng()

    def lazy(leaf):
        return LazyArray(
            leaf.shape, np.dtype(np.float32), lambda: random.standard_normal(leaf.shape, np.float32)
        )

    params = {k: lazy(v) for k, v in flax.traverse_util.flatten_dict(shapes).items()}
    save_weights(path, Weights(config, flax.traverse_util.unflatten_dict(params), is_scanned=True))
    return sum(leaf.nbytes for leaf in params.values())


def run(code: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of a process that runs `code`."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + PEAK], capture_output=True, check=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1])


# Not getrusage: its figure includes the parent's memory from before exec.
PEAK = """
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


if __name__ == "__main__":
    main()
