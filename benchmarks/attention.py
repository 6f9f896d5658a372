"""Attention of the token encoder's shapes: the facade's against other ways to compute it.

    python -m benchmarks.run --suite=gpu --only=attention

Heads of 72 fit no power of two, which kernels like; so what is best has to be measured. Each is
compared with the facade's float32 before it is timed, forward and with its gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Case, Quiet, alternate, compare, machine
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.ops.attention import attention, written_out

BATCH, ROUNDS = 64, 20
TOLERANCE = 0.05  # of bfloat16's results, which are of the order of 1
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def measure(is_rehearsal: bool = False) -> dict:
    """Returns rows: each contender against the facade, causal or not, forward and with gradient."""
    vision = TOKLIP_SIZES["toklip_s_256"].vision
    batch, rounds = (1, 1) if is_rehearsal else (BATCH, ROUNDS)
    rows, problems = [], {}
    for is_causal in (True, False):
        for has_gradient in (False, True):
            found = measure_one(vision, batch, is_causal, has_gradient, rounds)
            rows += found[0]
            problems |= found[1]
    return {"machine": machine(), "rows": rows, "problems": problems}


def measure_one(
    vision: VisionConfig, batch: int, is_causal: bool, has_gradient: bool, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Returns the rows of one case, and the contenders that failed and why."""
    shape = (batch, vision.num_tokens, vision.num_heads, vision.width // vision.num_heads)
    label = f"attention {' x '.join(map(str, shape))}, {'causal' if is_causal else 'full'}"
    label += ", with gradient" if has_gradient else ", forward"

    def draw(random):
        return tuple(random.standard_normal(shape, np.float32) for _ in range(3))

    inputs = draw(np.random.default_rng(0))
    with jax.default_matmul_precision("highest"):
        exact = _program(contenders(is_causal)["written out"], has_gradient)(
            *map(jnp.asarray, inputs)
        )
    cases, problems = {}, {}
    for name, function in contenders(is_causal).items():
        try:
            case = _case(_program(function, has_gradient))
            _check(case.run(*case.place(*inputs)), exact)
            cases[name] = case
        except Exception as error:  # a kernel that this device lacks: said, and the rest continues
            problems[f"{label}, {name}"] = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = alternate(cases, draw, rounds, quiet=Quiet())
    rows = [compare(seconds, "ours", name, label, None) for name in cases if name != "ours"]
    return rows, problems


def contenders(is_causal: bool) -> dict[str, Attention]:
    """Returns functions of query, key and value [b, n, k, e] by their names."""

    def of_jax(implementation):
        return lambda q, k, v: jax.nn.dot_product_attention(
            q, k, v, is_causal=is_causal, implementation=implementation
        )

    def pallas(q, k, v):
        from jax.experimental.pallas.ops.gpu.attention import mha

        return mha(q, k, v, None, sm_scale=q.shape[-1] ** -0.5, causal=is_causal)

    return {
        "ours": lambda q, k, v: attention(q, k, v, is_causal=is_causal),
        "written out": lambda q, k, v: written_out(q, k, v, is_causal),
        "jax.nn": of_jax("xla"),
        "cuDNN": of_jax("cudnn"),
        "Pallas": pallas,
    }


def _program(function, has_gradient):
    if not has_gradient:
        return jax.jit(function)

    def total(*inputs):
        return jnp.sum(function(*inputs).astype(jnp.float32) ** 2)

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))


def _case(program):
    return Case(
        lambda *inputs: jax.block_until_ready(program(*inputs)),
        lambda *inputs: jax.block_until_ready(tuple(jnp.asarray(x, "bfloat16") for x in inputs)),
    )


def _check(got, exact):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        scale = max(1.0, float(jnp.abs(b).max()))
        error = float(jnp.abs(a.astype(jnp.float32) - b).max()) / scale
        if not error <= TOLERANCE:
            raise ValueError(f"differs from float32 by {error:.3g} of its largest value")
