"""Peak memory and time of the converter's commands, as processes, on a checkpoint of a real size.

    python benchmarks/conversion_memory.py --layers=27

writes random weights with the released names and shapes (S-256; `--layers` cuts its depth),
converts them to JAX in both layouts and back, and prints each command's peak resident memory as a
multiple of the checkpoint's size. Pages of the mapped file count as resident, although the kernel
may drop them. Linux only.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from safetensors.numpy import save_file

KEYS = pathlib.Path(__file__).parents[1] / "tests/golden/full_keys/keys_256.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=27, help="of each tower; 27 is the real size")
    parser.add_argument("--vocabulary", type=int, default=256_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        checkpoint = folder / "toklip.safetensors"
        save_file(random_tensors(args.layers, args.vocabulary), checkpoint)
        size = checkpoint.stat().st_size
        print(f"checkpoint: {size / 2**30:.2f} GiB")
        base, _ = peak(["inspect", "nothing-here"], expected=2)
        print(f"the interpreter and its imports: {base / 2**20:.0f} MiB, taken off below")
        heads = ["--num-heads=16", "--text-num-heads=16"]
        for layout in ("unrolled", "scanned"):
            out, back = folder / layout, folder / f"{layout}.safetensors"
            commands = [
                ["to-jax", checkpoint, out, f"--layout={layout}", *heads],
                ["to-torch", out, back],
                ["verify", checkpoint, out],
            ]
            if importlib.util.find_spec("torch"):
                commands.append(["to-torch", out, back.with_suffix(".pt")])
            for command in commands:
                memory, seconds = peak(command)
                label = f"{layout:9} {command[0]:9} {pathlib.Path(command[2]).suffix:12}"
                print(f"{label} {(memory - base) / size:.2f} x, {seconds:.0f} s", flush=True)
            back.unlink()


def random_tensors(layers, vocabulary):
    random = np.random.default_rng(0)
    tensors = {}
    for name, (shape, dtype) in json.loads(KEYS.read_text()).items():
        layer = re.search(r"blocks\.(\d+)\.", name)
        if layer and not name.startswith("visual.trunk.vq.") and int(layer[1]) >= layers:
            continue
        if name == "text.token_embedding.weight":
            shape = [vocabulary, shape[1]]
        assert dtype.endswith("float32"), dtype
        tensors[name] = random.standard_normal(shape, np.float32)
    return tensors


def peak(command, expected=0):
    """Peak resident bytes of a converter command, and its seconds."""
    command = [sys.executable, "-c", RUN, *map(str, command)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return int(done.stdout.splitlines()[-1]), time.perf_counter() - start


RUN = """
import sys
from toklip_jax.convert.__main__ import main
status = main(sys.argv[1:])
# Not getrusage: its figure includes the parent's memory from before exec.
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
sys.exit(status)
"""


if __name__ == "__main__":
    main()
