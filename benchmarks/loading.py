"""Measures the cost of starting: the import, loading weights of a real size, and saving them.

    python -m benchmarks.loading --layers=27

writes random TokLIP weights of S-256 (`--layers` cuts its depth, and with it the vocabulary), loads
and saves them in processes of their own, and prints seconds and peak memory as a multiple of the
parameters. Pages of mapped files count as memory. Linux only.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from benchmarks.timing import against_bar, machine
from toklip_jax.files import LazyArray
from toklip_jax.models.registry import build_model, family_of
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights, save_weights

IMPORT_SECONDS, PEAK_OVER_PARAMETERS = 1.5, 1.2  # at most
SAVING_OVER_PARAMETERS = 0.25  # at most, beside those that are saved: the largest is 0.18 of all
DEPTH, VOCABULARY = 27, 256_000  # of S-256
REPETITIONS = 5
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

ON_A_MESH = """
from toklip_jax.parallel.sharding import make_mesh
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
"""
# What is measured, by name: what comes before, and is not counted; and the call itself.
CASES = {
    "load": ("", "toklip = toklip_jax.load(path)"),
    "load as bfloat16": ("", "toklip = toklip_jax.load(path, param_dtype='bfloat16')"),
    "load onto a mesh of 8": (ON_A_MESH, "toklip = toklip_jax.load(path, mesh=mesh)"),
    "load onto a mesh of 8 as bfloat16": (
        ON_A_MESH,
        "toklip = toklip_jax.load(path, mesh=mesh, param_dtype='bfloat16')",
    ),
    "save from a mesh of 8": (
        ON_A_MESH
        + """
from toklip_jax.weights import Weights, save_weights
toklip = toklip_jax.load(path, mesh=mesh)
""",
        "save_weights(f'{path}_saved', Weights(toklip.config, toklip.params, False))",
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=DEPTH, help="of each tower; 27 is S-256's")
    args = parser.parse_args()
    print(json.dumps(measure(args.layers), indent=2))


def measure(layers: int = DEPTH) -> dict:
    """Returns seconds and peak memory of the import, of loading, and of saving."""
    start = statistics.median(seconds_of("import toklip_jax.api") for _ in range(REPETITIONS))
    rows = [
        {"what": "import toklip_jax.api", "value": start, "unit": "s"}
        | against_bar(start, IMPORT_SECONDS, is_most=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights"
        write(path, cut_config(layers))
        for name in CASES:
            seconds, memory, kept = peak(path, name)
            limit = SAVING_OVER_PARAMETERS if "save" in name else PEAK_OVER_PARAMETERS
            what = f"{name}, {kept / 2**30:.2f} GiB"
            rows += [
                {"what": what, "value": seconds, "unit": "s"},
                {"what": f"{what}: peak memory by parameters", "value": memory / kept}
                | against_bar(memory / kept, limit, is_most=True),
            ]
    return {"machine": machine(), "rows": rows}


def cut_config(layers: int) -> Any:
    """Returns S-256's config with fewer layers, and as much less of a vocabulary."""
    config = TOKLIP_SIZES["toklip_s_256"]
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, depth=layers),
        text=dataclasses.replace(
            config.text, depth=layers, vocab_size=VOCABULARY * layers // DEPTH, tokenizer=""
        ),
    )


def write(path: pathlib.Path, config: Any) -> int:
    """Writes random weights, layers apart, array by array; returns their bytes."""
    random = np.random.default_rng(0)

    def lazy(leaf):
        return LazyArray(
            leaf.shape, np.dtype(np.float32), lambda: random.standard_normal(leaf.shape, np.float32)
        )

    model = build_model(config, Compute(is_scanned=False))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *family_of(config).inputs(config))
    flat = flax.traverse_util.flatten_dict(shapes["params"])
    params = {path: lazy(leaf) for path, leaf in flat.items()}
    save_weights(path, Weights(config, flax.traverse_util.unflatten_dict(params), False))
    return sum(leaf.nbytes for leaf in params.values())


def peak(path: pathlib.Path, name: str) -> tuple[float, int, int]:
    """Returns seconds and peak resident bytes of one of `CASES`, and the parameters' bytes.

    What was resident before is taken off.
    """
    before, call = CASES[name]
    code = MEASURE.format(path=str(path), before=before, call=call)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if "mesh" in name:
        environment["XLA_FLAGS"] = EIGHT_DEVICES
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seconds, memory, kept = done.stdout.split()[-3:]
    return float(seconds), int(memory), int(kept)


def seconds_of(code: str) -> float:
    """Returns the seconds of a process that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return time.perf_counter() - start


# Not getrusage: its figure includes the parent's memory from before exec. Writing 5 to clear_refs
# sets the peak back to what is resident.
MEASURE = """
import time, jax, toklip_jax, toklip_jax.api

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

path = {path!r}
jax.numpy.zeros(8).block_until_ready()
{before}
open("/proc/self/clear_refs", "w").write("5")
resident, start = status("VmRSS"), time.perf_counter()
{call}
seconds, memory = time.perf_counter() - start, status("VmHWM") - resident
print(seconds, memory, sum(leaf.nbytes for leaf in jax.tree.leaves(toklip.params)))
"""


if __name__ == "__main__":
    main()
