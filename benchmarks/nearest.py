"""Time of the search for the nearest code, against PyTorch's usual formulation and a floor.

    python benchmarks/nearest.py --vectors=65536 --codes=16384 --dim=8

alternates, on fresh random unit vectors each time: ours; LlamaGen's formulation in PyTorch (sums of
squares, einsum, argmin over all distances), where torch is installed; and the floor, XLA's fused
matmul and max, which finds no index. Ids are checked before the clock runs. Writes
`benchmarks/results/nearest.json`.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.ops.nearest import nearest_code

RESULT = pathlib.Path(__file__).parent / "results/nearest.json"
CHECKED = 4096  # vectors whose ids are compared with the plain search's
FLOOR_ROWS = 256  # vectors of the floor at a time; the fastest whole or in blocks counts


def measure(vectors: int = 65_536, codes: int = 16_384, dim: int = 8, repeats: int = 7) -> dict:
    """Returns median seconds by name, ratios, and the machine.

    Raises:
        AssertionError: an id that is not the nearest code's, but for float32's rounding.
    """
    search = jax.jit(nearest_code)
    contestants = {
        "ours": search,
        "floor": jax.jit(floor),
        "floor_in_blocks": jax.jit(floor_blocks),
    }
    if jax.default_backend() == "gpu":
        contestants["plain"] = jax.jit(lambda v, e: nearest_code(v, e, "plain"))
    if (torch_search := torch_formulation()) is not None:
        contestants["torch"] = torch_search
    random = np.random.default_rng()
    check(search, *unit_vectors(random, vectors, codes, dim))
    seconds = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        given = unit_vectors(random, vectors, codes, dim)
        for name, function in contestants.items():
            inputs = given if name == "torch" else jax.block_until_ready(jax.device_put(given))
            start = time.perf_counter()
            jax.block_until_ready(function(*inputs))
            if repeat:  # the first is for compiling and warming up
                seconds[name].append(time.perf_counter() - start)
    return summary(seconds, vectors, codes, dim, search)


def summary(seconds: dict, vectors: int, codes: int, dim: int, search) -> dict:
    median = {name: statistics.median(times) for name, times in seconds.items()}
    least = min(median["floor"], median["floor_in_blocks"])
    shapes = [jax.ShapeDtypeStruct((rows, dim), jnp.float32) for rows in (vectors, codes)]
    memory = search.lower(*shapes).compile().memory_analysis()
    ratios = {"of_floor": median["ours"] / least}
    ratios |= {
        f"{name}_by_ours": median[name] / median["ours"]
        for name in ("torch", "plain")
        if name in median
    }
    return {
        "vectors": vectors,
        "codes": codes,
        "dim": dim,
        "median_seconds": {name: round(value, 5) for name, value in median.items()},
        "least_seconds": {name: round(min(times), 5) for name, times in seconds.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "repeats": len(seconds["ours"]),
        "extra_mib": round(memory.temp_size_in_bytes / 2**20, 2),
        "gflops": round(2 * vectors * codes * dim / median["ours"] / 1e9, 1),
        "machine": machine(),
    }


def unit_vectors(random, vectors, codes, dim):
    drawn = [random.standard_normal((rows, dim), np.float32) for rows in (vectors, codes)]
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in drawn]


def floor(vectors, codebook):
    return jnp.max(jnp.matmul(vectors, codebook.T, precision="highest"), axis=-1)


def floor_blocks(vectors, codebook):
    blocks = vectors.reshape(-1, min(FLOOR_ROWS, len(vectors)), vectors.shape[1])
    return jax.lax.map(lambda block: floor(block, codebook), blocks)


def torch_formulation():
    """LlamaGen's `VectorQuantizer` up to the ids; None without torch. Holds 4 [n, z] matrices."""
    try:
        import torch
    except ImportError:
        return None
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"

    @torch.no_grad()
    def search(vectors, codebook):
        z, e = (torch.from_numpy(x).to(device) for x in (vectors, codebook))
        products = torch.einsum("bd,dn->bn", z, e.T)
        d = torch.sum(z**2, dim=1, keepdim=True) + torch.sum(e**2, dim=1) - 2 * products
        return torch.argmin(d, dim=1).cpu().numpy()

    return search


def check(search, vectors, codebook):
    """Ids equal the plain search's; where not, the distances differ by rounding alone."""
    some = np.random.default_rng(0).permutation(len(vectors))[:CHECKED]
    ids = np.asarray(search(vectors, codebook))[some]
    plain = np.asarray(nearest_code(jnp.asarray(vectors[some]), jnp.asarray(codebook), "plain"))
    near = [
        np.sum((vectors[some] - codebook[i].astype(np.float64)) ** 2, axis=1) for i in (ids, plain)
    ]
    assert np.abs(near[0] - near[1]).max() < 1e-6
    assert np.mean(ids != plain) < 1e-3


def machine() -> dict:
    found = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found["cpu"] = models[0] if models else platform.processor()
    found["device"] = jax.devices()[0].device_kind
    found["jax"] = jax.__version__
    try:
        import torch

        found["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads"
    except ImportError:
        pass
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=65_536)
    parser.add_argument("--codes", type=int, default=16_384)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    result = measure(**vars(parser.parse_args()))
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
