"""Seconds until the full-size S-256 training step is compiled: traced, lowered and compiled.

    python -m benchmarks.run --suite=cpu --only=compile_time

Of shapes alone: no weight is made. The cache of compiled programs is off. The layers are scanned,
as by default; `--suite=gpu` also compiles them one by one.
"""

import dataclasses
import time

import jax

from benchmarks import train_step
from benchmarks.timing import against_bar, machine
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh

MOST = 60.0  # seconds
LAYOUTS = {"cpu": (True,), "gpu": (True, False)}


def measure(suite: str) -> dict:
    """Returns seconds of each layout."""
    computes = [
        Compute("bfloat16", is_scanned=is_scanned, remat="dots") for is_scanned in LAYOUTS[suite]
    ]
    return {"machine": machine(), "rows": [measure_setting(_released(c)) for c in computes]}


def measure_setting(setting: train_step.Setting) -> dict:
    """Returns a row; the bar is for scanned layers."""
    jax.config.update("jax_enable_compilation_cache", False)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = train_step.abstract_step(setting, mesh)
        middle = time.perf_counter()
        lowered.compile()
    end = time.perf_counter()
    is_scanned = setting.compute.is_scanned
    layout = "scanned" if is_scanned else "one by one"
    row = {
        "what": f"compiling the train step, {setting.size.vision.depth} layers {layout}",
        "value": end - start,
        "unit": "s",
        "lowering_seconds": middle - start,
        "compiling_seconds": end - middle,
    }
    return row | against_bar(end - start, MOST if is_scanned else None, is_most=True)


def _released(compute):
    """The recipe's step: batch 16, towers in bfloat16, rematerialised."""
    setting = train_step.SETTINGS["gpu"]
    return dataclasses.replace(setting, compute=compute, batch=16)
