"""A generator's layers, one place after another: one kernel of all layers against the package's.

    python -m benchmarks.run --suite=gpu --only=decode_layers_b

Without embedding, head and drawing, which both would share: what a fused kernel could gain, and
whether it computes the same. The memory floor is that of the layers' own weights and caches.
"""

import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from benchmarks import decode_kernel as kernel
from benchmarks.decode_tiling import Sizes, pack
from benchmarks.sampling import read_rate
from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine
from benchmarks.weights import random_params
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.generator.sizes import SIZES
from toklip_jax.nn.cache import KVCache, empty_cache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.rotary import rotary_table_2d

ROWS, ROUNDS, BAR = (1, 2, 16), 8, 0.5
TOLERANCE = 0.02  # of the kernel's error, as a share of the largest output
WAITS = 1000  # in a row, to time one
# Ways to run the kernel: when programs say that they have come; how evenly they share a product's
# weights (with two splits the busiest has 1.7 times its share in B, with more 1.3 times); chunks
# of fewer numbers than a program has threads, which need no change of layout, but more reads.
EVEN = {"is_early": True, "splits": (1, 2, 3, 4, 5)}
WAYS = {
    "one kernel, late": {},
    "one kernel, early": {"is_early": True},
    "one kernel, early and even": EVEN,
    "one kernel, short chunks": {**EVEN, "chunk": 64},
}


def measure(size: str, is_rehearsal: bool = False) -> dict:
    """Returns the rows of a named size.

    Args:
        is_rehearsal: two layers of a small width, where there is no GPU: whether it runs.
    """
    config, rows, rounds = SIZES[size].gpt, ROWS, ROUNDS
    if is_rehearsal:
        config = dataclasses.replace(config, width=128, num_heads=2, mlp_dim=256, depth=2)
        config, rows, rounds = dataclasses.replace(config, grid=(2, 2)), (1,), 1
    rate, quiet, measured, checks = read_rate(), Quiet(), [], {}
    if not is_rehearsal:
        measured += measure_waits(rounds, quiet)
    for b in rows:
        found = measure_one(size, config, b, rounds, rate, quiet)
        measured += found[0]
        checks |= found[1]
    return {
        "machine": machine(),
        "read": rate,
        "rows": measured,
        "checks": checks,
        "quiet": quiet.record(),
    }


def measure_one(
    size: str, config: GPTConfig, b: int, rounds: int, rate: float, quiet: Quiet
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Returns (rows of the table, what was checked) for b sequences."""
    label = f"layers of {size}, {b} sequences, bfloat16, {config.num_positions} places"
    params = layer_params(config)
    x = np.random.default_rng(1).standard_normal((config.num_positions, b, config.width))
    ways = {
        "plain": plain_layers(config, params, b),
        **{name: fused_layers(config, params, b, **way) for name, way in WAYS.items()},
    }
    out = {name: np.asarray(way(jnp.bfloat16(x))) for name, way in ways.items()}
    with jax.default_matmul_precision("highest"):
        exact = np.asarray(plain_layers(config, params, b, "float32")(jnp.bfloat16(x)))
    errors = {
        name: float(np.max(np.abs(values - exact)) / np.max(np.abs(exact)))
        for name, values in out.items()
    }
    checks = {f"{label}, {name}: error, of the largest output": x for name, x in errors.items()}
    right = [name for name in WAYS if errors[name] < TOLERANCE]  # NaN is wrong too
    cases = {
        name: Case(lambda x, way=ways[name]: way(x).block_until_ready())
        for name in ("plain", *right)
    }
    seconds = alternate(
        cases,
        lambda random: (jnp.bfloat16(random.standard_normal(x.shape, np.float32)),),
        rounds,
        quiet=quiet,
    )
    rows = []
    for name in WAYS:
        what = f"{label}, {name}"
        if name not in right:
            row = {"what": f"{what}: wrong, not timed; error", "value": errors[name]}
            rows.append(row | against_bar(errors[name], TOLERANCE, is_most=True))
            continue
        share = read_bytes(config, b) / rate / statistics.median(seconds[name])
        row = {"what": f"{what}: share of the memory floor", "value": share}
        rows += [compare(seconds, name, "plain", what, None), row | against_bar(share, BAR)]
    return rows, checks


def measure_waits(rounds: int, quiet: Quiet) -> list[dict[str, Any]]:
    """Returns the rows of what programs spend on waiting for one another, without any work."""
    programs = kernel.PER_CORE * jax.devices()[0].core_count
    cases = {}
    for name, is_early in {"looking by adding 0": False, "by reading": True}.items():
        sizes = Sizes(128, 1, 1, 128, 1e-5, programs, is_early)
        wait = jax.jit(functools.partial(kernel.run_waits, times=WAITS, sizes=sizes))
        count = int(wait(jnp.zeros(1, jnp.int32))[0])
        if count != WAITS * programs:
            raise ValueError(f"expected {programs} programs to come {WAITS} times, got {count}")
        cases[name] = Case(lambda x, wait=wait: wait(x).block_until_ready(), jnp.asarray)
    seconds = alternate(cases, lambda random: (np.zeros(1, np.int32),), rounds, quiet=quiet)
    return [
        {
            "what": f"a wait of {programs} programs, {name}",
            "value": statistics.median(seconds[name]) / WAITS * 1e6,
            "unit": "microseconds",
        }
        for name in cases
    ]


def layer_params(config: GPTConfig) -> dict[str, Any]:
    """Returns parameters of the layers, float32."""
    stack = Stack(config.stack, Compute(is_scanned=False))
    x = jax.ShapeDtypeStruct((1, 1, config.width), jnp.float32)
    return random_params(lambda key, x: stack.init(key, x)["params"], x)


def plain_layers(config: GPTConfig, params: dict[str, Any], b: int, dtype: str = "bfloat16"):
    """Returns a compiled function: inputs [n, b, d] to the outputs of n places, float32."""
    stack = Stack(config.stack, Compute(dtype=dtype, is_scanned=False))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)

    def step(params, cache: KVCache, x):
        out, cache = stack.apply({"params": params}, x[:, None], cache=cache)
        return cache, out[:, 0].astype(jnp.float32)

    @jax.jit
    def run(params, x):
        cache = empty_cache(config.stack, b, config.num_positions, dtype)
        return jax.lax.scan(functools.partial(step, params), cache, x)[1]

    return functools.partial(run, params)


def fused_layers(config: GPTConfig, params: dict[str, Any], b: int, **way):
    """Returns what `plain_layers` does, by the kernel, whose `Sizes` take `way`."""
    is_alone = jax.default_backend() != "gpu"
    cores = 1 if is_alone else jax.devices()[0].core_count
    sizes = Sizes(
        config.width,
        config.depth,
        config.num_heads,
        config.mlp_dim,
        config.stack.norm_eps,
        kernel.PER_CORE * cores,
        **way,
    )
    layers = [kernel_layer(params[f"blocks_{i}"], config.width) for i in range(config.depth)]
    packed = jax.jit(functools.partial(pack, sizes=sizes))(layers)
    n = config.num_positions
    table = rotary_table_2d(
        jnp.arange(n)[None],
        config.stack.head_dim,
        config.stack.rotary_base,
        width=config.stack.rotary_width,
        prefix=config.stack.rotary_prefix,
    )

    def step(packed, caches, given):
        place, x = given
        seen = jnp.ones((b, n), jnp.int32)
        angles = table.cos[0], table.sin[0]
        out, *caches = kernel.run_layers(
            x, packed, *caches, seen, place, *angles, sizes, interpret=is_alone
        )
        return tuple(caches), out

    @jax.jit
    def run(packed, x):
        shape = (config.depth, b, config.num_heads, n, config.stack.head_dim)
        caches = (jnp.zeros(shape, jnp.bfloat16),) * 2
        places = jnp.arange(n, dtype=jnp.int32)
        return jax.lax.scan(functools.partial(step, packed), caches, (places, x))[1]

    return functools.partial(run, packed)


def kernel_layer(block: dict[str, Any], width: int) -> dict[str, Any]:
    """Returns a layer's parameters as `decode_tiling.pack` takes them."""
    attn, mlp = block["attn"], block["mlp"]
    return {
        "norm1": block["norm1"]["scale"],
        "norm2": block["norm2"]["scale"],
        "qkv": attn["qkv"]["kernel"].reshape(width, -1),
        "proj": attn["proj"]["kernel"].reshape(-1, width),
        "gate": mlp["gate"]["kernel"],
        "fc1": mlp["fc1"]["kernel"],
        "fc2": mlp["fc2"]["kernel"],
    }


def read_bytes(config: GPTConfig, b: int) -> int:
    """Bytes that all places read: the layers' weights each, and what is cached before."""
    weights = config.depth * (4 * config.width**2 + 3 * config.width * config.mlp_dim)
    cached = sum(range(config.num_positions)) * 2 * config.depth * config.width * b
    return 2 * (config.num_positions * weights + cached)
