"""Time of the search for the nearest code, against PyTorch's usual formulation and a floor.

    python -m benchmarks.nearest --vectors=65536 --codes=16384 --dim=8

alternates, on fresh random unit vectors each time: ours; LlamaGen's formulation in PyTorch (sums of
squares, einsum, argmin over all distances), where torch is installed; and the floor, XLA's fused
matmul and max, which finds no index. Ids are checked before the clock runs. `benchmarks.run` keeps
the figures of the sizes above, and of 262,144 codes of 256. With `--metric=inner_product` the code
of the greatest inner product is searched, and the PyTorch side is IBQ's: softmax and one-hot over
all codes, and a product of the latter with the codebook, in place of which we look the code up.
"""

import argparse
import functools
import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine
from toklip_jax.ops.nearest import nearest_code

CHECKED = 4096  # vectors whose ids are compared with the plain search's
OF_FLOOR = {"cpu": 3.0, "gpu": 2.0}  # times the floor that it may take
OF_TORCH = {"cpu": 10.0}  # times faster that it has to be
OF_IBQ = 8.0  # times faster than IBQ's formulation, on a CPU
EXTRA_MIB = {"euclidean": 16.0, "inner_product": 32.0}
FLOOR_ROWS = 256  # vectors of the floor at a time; the fastest whole or in blocks counts


def measure(
    vectors: int = 65_536,
    codes: int = 16_384,
    dim: int = 8,
    repeats: int = 8,
    metric: str = "euclidean",
    is_rehearsal: bool = False,
) -> dict:
    """Returns rows of the table, and the seconds of all.

    Args:
        is_rehearsal: one round, of a sixteenth of the vectors.

    Raises:
        AssertionError: an id that is not the nearest code's, but for float32's rounding.
    """
    if is_rehearsal:
        vectors, repeats = vectors // 16, 1
    is_dot = metric == "inner_product"
    search = jax.jit(functools.partial(nearest_code, metric=metric))
    contestants = {"ours": jax.jit(nearest_row) if is_dot else search, "floor": jax.jit(floor)}
    contestants["floor in blocks"] = jax.jit(floor_blocks)
    if jax.default_backend() == "gpu":
        contestants["plain"] = jax.jit(lambda v, e: nearest_code(v, e, "plain", metric))
    cases = {
        name: Case(
            lambda *inputs, search=search: jax.block_until_ready(search(*inputs)),
            lambda *inputs: jax.block_until_ready(jax.device_put(inputs)),
        )
        for name, search in contestants.items()
    }
    if (torch_search := torch_formulation(metric)) is not None:
        cases["torch"] = Case(torch_search)

    def draw(random):
        return unit_vectors(random, vectors, codes, dim)

    check(search, *draw(np.random.default_rng()), metric)
    quiet = Quiet()
    seconds = alternate(cases, draw, repeats, quiet=quiet)
    shapes = [jax.ShapeDtypeStruct((rows, dim), jnp.float32) for rows in (vectors, codes)]
    memory = search.lower(*shapes).compile().memory_analysis()
    what = f"{vectors} vectors of {dim} against {codes} codes" + is_dot * ", inner product"
    return {
        "machine": machine(),
        "rows": rows(what, seconds, memory.temp_size_in_bytes / 2**20, metric),
        "seconds": seconds,
        "quiet": quiet.record(),
    }


def rows(what: str, seconds: dict[str, list[float]], extra_mib: float, metric: str) -> list[dict]:
    backend = jax.default_backend()
    of_torch = OF_TORCH.get(backend) if metric == "euclidean" else OF_IBQ
    bars = {"torch": of_torch if backend == "cpu" else None, "plain": None}
    least = min(statistics.median(seconds[name]) for name in ("floor", "floor in blocks"))
    of_floor = statistics.median(seconds["ours"]) / least
    return [
        *(compare(seconds, "ours", peer, what, bars[peer]) for peer in bars if peer in seconds),
        {"what": f"{what}: times the floor", "value": of_floor}
        | against_bar(of_floor, OF_FLOOR.get(backend), is_most=True),
        {"what": f"{what}: extra memory", "value": extra_mib, "unit": "MiB"}
        | against_bar(extra_mib, EXTRA_MIB[metric], is_most=True),
    ]


def unit_vectors(random, vectors, codes, dim):
    drawn = [random.standard_normal((rows, dim), np.float32) for rows in (vectors, codes)]
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in drawn]


def nearest_row(vectors, codebook):
    return jnp.take(codebook, nearest_code(vectors, codebook, metric="inner_product"), axis=0)


def floor(vectors, codebook):
    return jnp.max(jnp.matmul(vectors, codebook.T, precision="highest"), axis=-1)


def floor_blocks(vectors, codebook):
    blocks = vectors.reshape(-1, min(FLOOR_ROWS, len(vectors)), vectors.shape[1])
    return jax.lax.map(lambda block: floor(block, codebook), blocks)


def torch_formulation(metric: str):
    """PyTorch's usual way, of NumPy arrays; None without torch.

    LlamaGen's `VectorQuantizer` up to the ids, which holds four [n, z] matrices; for the inner
    product IBQ's in evaluation, up to the chosen rows.
    """
    try:
        import torch
    except ImportError:
        return None
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"

    def ids_of(z, e):
        products = torch.einsum("bd,dn->bn", z, e.T)
        d = torch.sum(z**2, dim=1, keepdim=True) + torch.sum(e**2, dim=1) - 2 * products
        return torch.argmin(d, dim=1)

    def rows_of(z, e):
        logits = torch.einsum("bd,nd->bn", z, e)
        soft = torch.softmax(logits, dim=1)
        hard = torch.zeros_like(logits).scatter_(1, soft.max(dim=1, keepdim=True)[1], 1.0)
        return torch.einsum("bn,nd->bd", hard - soft.detach() + soft, e)

    compute = rows_of if metric == "inner_product" else ids_of

    @torch.no_grad()
    def search(vectors, codebook):
        inputs = (torch.from_numpy(x).to(device) for x in (vectors, codebook))
        return compute(*inputs).cpu().numpy()

    return search


def check(search, vectors, codebook, metric="euclidean"):
    """Ids equal the plain search's; where not, the distances differ by rounding alone.

    The vectors are of unit length, so that distances tell of inner products too.
    """
    some = np.random.default_rng(0).permutation(len(vectors))[:CHECKED]
    ids = np.asarray(search(vectors, codebook))[some]
    inputs = jnp.asarray(vectors[some]), jnp.asarray(codebook)
    plain = np.asarray(nearest_code(*inputs, "plain", metric))
    near = [
        np.sum((vectors[some] - codebook[i].astype(np.float64)) ** 2, axis=1) for i in (ids, plain)
    ]
    assert np.abs(near[0] - near[1]).max() < 1e-6
    assert np.mean(ids != plain) < 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=65_536)
    parser.add_argument("--codes", type=int, default=16_384)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--metric", default="euclidean")
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
