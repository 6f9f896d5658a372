"""Measures the machine's limits: matrix products, convolutions, copies; the floors they give.

    python -m benchmarks.run --suite=cpu --only=limits

Rates are the best of some runs, in the shapes of the models: what no program exceeds in this run,
which data sheets can't say of a machine that others share.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import machine
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute

COPIED = 2**28  # bytes, beyond any cache
REPETITIONS = 5
BATCHES = {"cpu": (1, 8), "gpu": (64,)}


def measure(suite: str, is_rehearsal: bool = False) -> dict:
    """Returns rates in FLOP/s and bytes/s, shape by shape, of float32 and (GPU) bfloat16.

    Args:
        is_rehearsal: a batch of 1, which a CPU computes in seconds.
    """
    size = TOKLIP_SIZES["toklip_s_256"]
    computes = [Compute()]
    if suite == "gpu":
        computes.append(Compute(dtype="bfloat16", vq_dtype="bfloat16"))
    parts = {
        f"{compute.dtype}, batch {batch}": {
            "products": products(size, batch, compute),
            "convolutions": convolutions(size, batch, compute),
        }
        for compute in computes
        for batch in ((1,) if is_rehearsal else BATCHES[suite])
    }
    rows = [
        {"what": f"{kind}, {label}, best shape", "value": max(found.values()), "unit": "FLOP/s"}
        for label, part in parts.items()
        for kind, found in part.items()
    ]
    copied = copy_bandwidth()
    rows.append({"what": "copy, read and write", "value": copied, "unit": "byte/s"})
    return {"machine": machine(), "rows": rows, "rates": parts, "copy": copied}


def rates(size: TokLIPConfig, batch: int, compute: Compute) -> dict[str, float]:
    """Returns the best product's and the best convolution's FLOP/s among the model's shapes."""
    return {
        "product": max(products(size, batch, compute).values()),
        "convolution": max(convolutions(size, batch, compute).values()),
    }


def products(size: TokLIPConfig, batch: int, compute: Compute) -> dict[str, float]:
    """Returns FLOP/s of the token encoder's matrix products, "m x k x n" to rate."""
    vision = size.vision
    m, d = batch * vision.num_tokens, vision.width
    found = {}
    for k, n in ((d, 3 * d), (d, d), (d, vision.mlp_dim), (vision.mlp_dim, d)):
        a, b = _random((m, k), compute.dtype), _random((k, n), compute.dtype)
        found[f"{m} x {k} x {n}"] = 2 * m * k * n / best(_exact(jnp.matmul, compute.dtype), a, b)
    return found


def convolutions(size: TokLIPConfig, batch: int, compute: Compute) -> dict[str, float]:
    """Returns FLOP/s of the VQ encoder's 3x3 convolutions, level by level."""
    vq, found = size.vq, {}

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    for level, multiplier in enumerate(vq.multipliers):
        side, c = size.vision.image_size // vq.stem_patch // 2**level, vq.channels * multiplier
        x = _random((batch, side, side, c), compute.vq_dtype)
        kernel = _random((3, 3, c, c), compute.vq_dtype)
        seconds = best(_exact(conv, compute.vq_dtype), x, kernel)
        found[f"{side} x {side} x {c}"] = 18 * batch * side**2 * c**2 / seconds
    return found


def copy_bandwidth() -> float:
    """Returns bytes read and written a second by the copy of a large array."""
    x = _random((COPIED // 4,), "float32")
    return 2 * COPIED / best(jnp.copy, x)


def best(function: Callable[..., jax.Array], *inputs: Any) -> float:
    """Returns the least seconds of some runs, compiled and warmed up."""
    jitted = jax.jit(function)
    jitted(*inputs).block_until_ready()
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        jitted(*inputs).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _exact(function, dtype):
    """Float32 products as such, which accelerators would round to less."""

    def call(*inputs):
        with jax.default_matmul_precision("highest" if dtype == "float32" else None):
            return function(*inputs)

    return call


def _random(shape, dtype):
    return jnp.asarray(np.random.default_rng().standard_normal(shape, np.float32), dtype)
