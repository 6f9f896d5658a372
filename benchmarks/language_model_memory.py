"""Peak memory of loading a language model of a real size from sharded files of Hugging Face.

    python -m benchmarks.language_model_memory --size=qwen2.5_0.5b --layers=24

writes a directory of random weights in bfloat16, as published ones are, in several files with an
index (`--layers` cuts its depth), loads it in processes of their own, and prints the peak resident
memory as a multiple of the parameters in the type that they are kept in. What was resident before
is taken off; pages of the mapped files count. Linux only.
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile

import flax.traverse_util
import ml_dtypes
import numpy as np

from toklip_jax.files import LazyArray
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.qwen.sizes import SIZES
from toklip_jax.models.registry import param_shapes
from toklip_jax.weights import Weights
from toklip_jax.weights.hugging_face import write_hugging_face

SHARDS = 4
MOST = 1.2  # times the parameters
DTYPES = {"float32": 4, "bfloat16": 2}  # that parameters are kept in, and their bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="qwen2.5_0.5b")
    parser.add_argument("--layers", type=int, help="its own unless given")
    args = parser.parse_args()
    config = SIZES[args.size]
    config = dataclasses.replace(config, depth=args.layers or config.depth)
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "weights"
        count = write(directory, config)
        shards = len(list(directory.glob("*.safetensors")))
        print(f"{count:,} parameters in {shards} files")
        for dtype, size in DTYPES.items():
            ratio = peak(directory, dtype) / (count * size)
            print(f"{dtype}: {ratio:.3f} x the parameters (at most {MOST})", flush=True)


def write(directory: pathlib.Path, config: QwenConfig) -> int:
    """Writes random weights, array by array; returns the number of parameters."""
    random = np.random.default_rng(0)

    def lazy(shape):
        def make():
            return (0.02 * random.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)

        return LazyArray(shape, np.dtype(ml_dtypes.bfloat16), make)

    flat = {path: lazy(shape) for path, shape in param_shapes(config).items()}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    size = sum(array.nbytes for array in flat.values())
    write_hugging_face(directory, Weights(config, params, is_scanned=False), size // SHARDS)
    return size // 2


def peak(directory: pathlib.Path, dtype: str) -> int:
    """Returns the bytes that loading adds at most to what is resident."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, directory, dtype],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


RUN = """
import pathlib, sys
import jax
import toklip_jax

def resident(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

toklip_jax.load  # and with it the imports
jax.numpy.zeros(1).block_until_ready()
before = resident("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
model = toklip_jax.load(sys.argv[1], param_dtype=sys.argv[2])
print(resident("VmHWM") - before)
"""


if __name__ == "__main__":
    main()
