"""The kernels of `ops.nearest` for TPUs and NVIDIA GPUs.

Both keep, for a block of vectors and every column of a tile of scores, the best score so far and
the tile it came from: three operations a score, none of them across columns. Only when all codes
have been seen are the columns compared, and the lowest index among the best is taken.

Narrow codes are scored in float32 without a matrix unit, which would be mostly idle and rounds to
bfloat16 or TF32: 2 (v_0 e_0 + ... + v_c e_c) - |e|^2, summed in this order, as on CPUs; the inner
product alone has no |e|^2. (GPUs and CPUs round a product and its addition at once, TPUs each.)
Wider codes use a TPU's matrix unit at its highest precision, six passes of bfloat16; on GPUs they
are searched by the library's products, which are six times as fast as a kernel's were (H200).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

from toklip_jax.ops.nearest_blocked import (
    METRICS,
    NARROW,
    by_rows,
    chain,
    penalty_of,
    search_by_products,
    shape_like,
)

LANES = 128  # of a TPU's vector registers
TPU_ROWS = 256  # a grid step's vectors: spread over lanes, 1 MiB at c = 8
TPU_TILE = 32  # of them at a time: 32 of the 64 registers at c = 8
TPU_CODES = 1024  # a grid step's codes, where narrow
TPU_WIDE = 2**17  # numbers of a grid step's codes (512 KiB), where wide
TPU_COPY = 2**20  # numbers of the vectors (4 MiB) that are laid out at a time
GPU_ROWS, GPU_WARPS = 64, 8  # of a program; more rows, or fewer warps, spill registers (H100)
GPU_CODES = 32  # of a program's tile: 8 scores a thread
GPU_COPY = 2**18  # vectors a launch
LAST = jnp.iinfo(jnp.int32).max


def search_on_tpu(
    vectors: Float[Array, "n c"],
    codebook: Float[Array, "z c"],
    metric: str = METRICS[0],
    interpret: bool = False,
) -> Int[Array, " n"]:
    """Vectors lie on sublanes and codes on lanes; ids are int32."""
    z, c = codebook.shape
    is_narrow = c <= NARROW
    size = TPU_CODES if is_narrow else min(max(TPU_WIDE // c // LANES, 1) * LANES, TPU_CODES // 2)
    size = min(size, -(-z // LANES) * LANES)
    codes = 2 * codebook.astype(jnp.float32).T if is_narrow else codebook
    penalty = _penalty(codebook, size, metric)[None]  # [1, z]
    kernel = _tpu_narrow if is_narrow else _tpu_wide

    def search(block):
        block = block.astype(jnp.float32)
        block = block.T if is_narrow else block
        return _tpu_call(kernel, block, codes, penalty, size, interpret)

    laid_out = c if is_narrow else max(c, LANES)  # numbers that a vector takes in memory
    return by_rows(search, vectors, max(TPU_COPY // laid_out, TPU_ROWS))


def search_on_gpu(
    vectors: Float[Array, "n c"],
    codebook: Float[Array, "z c"],
    metric: str = METRICS[0],
    interpret: bool = False,
) -> Int[Array, " n"]:
    """A program for each block of vectors, where codes are narrow; ids are int32."""
    if codebook.shape[1] > NARROW:
        return search_by_products(vectors, codebook, metric)
    penalty = _penalty(codebook, GPU_CODES, metric)
    codes = 2 * codebook.astype(jnp.float32).T  # so that neighbours are read together

    def search(block):
        return pl.pallas_call(
            functools.partial(_gpu_kernel, c=vectors.shape[1]),
            grid=(-(-len(block) // GPU_ROWS),),
            out_shape=shape_like((len(block),), jnp.int32, block),
            compiler_params=plgpu.CompilerParams(num_warps=GPU_WARPS, num_stages=2),
            interpret=interpret,
            name="nearest_code",
        )(block, codes, penalty)

    return by_rows(search, vectors, GPU_COPY)


def _penalty(codes, size, metric):
    """What the metric subtracts, [z], and infinity up to a multiple of `size`, which never wins."""
    return jnp.pad(penalty_of(codes, metric), (0, -len(codes) % size), constant_values=jnp.inf)


def _tpu_call(kernel, vectors, codes, penalty, size, interpret):
    """Runs over blocks of vectors and, within them, blocks of codes."""
    if kernel is _tpu_narrow:
        c, n = vectors.shape
        rows = min(TPU_ROWS, -(-n // LANES) * LANES)
        vectors_spec = pl.BlockSpec((c, rows), lambda i, j: (0, i))
        codes_spec = pl.BlockSpec((c, size), lambda i, j: (0, j))
        scratch = (c, rows, LANES)
    else:
        n, c = vectors.shape
        rows = min(TPU_ROWS, -(-n // LANES) * LANES)
        vectors_spec = pl.BlockSpec((rows, c), lambda i, j: (i, 0))
        codes_spec = pl.BlockSpec((size, c), lambda i, j: (j, 0))
        scratch = (rows, size)
    best = pltpu.VMEM((rows, LANES), jnp.float32), pltpu.VMEM((rows, LANES), jnp.int32)
    ids = pl.pallas_call(
        kernel,
        grid=(-(-n // rows), penalty.shape[1] // size),
        in_specs=[vectors_spec, codes_spec, pl.BlockSpec((1, size), lambda i, j: (0, j))],
        out_specs=pl.BlockSpec((1, rows), lambda i, j: (0, i)),
        out_shape=shape_like((1, n), jnp.int32, vectors),
        scratch_shapes=[pltpu.VMEM(scratch, jnp.float32), *best],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="nearest_code",
    )(vectors, codes, penalty)
    return ids[0]


def _tpu_narrow(vectors_ref, codes_ref, penalty_ref, ids_ref, spread_ref, best_ref, tile_ref):
    """Vectors [c, rows], codes [c, size] (doubled)."""
    c, rows = vectors_ref.shape

    @pl.when(pl.program_id(1) == 0)
    def spread():  # every vector's numbers over all lanes: [c, rows, lanes]
        for k in range(c):
            spread_ref[k] = jnp.broadcast_to(vectors_ref[k : k + 1], (LANES, rows)).T

    def scores_of(tile, lanes):
        left = [spread_ref[k, tile] for k in range(c)]
        right = [codes_ref[k : k + 1, lanes] for k in range(c)]
        return chain(left, right) - penalty_ref[:, lanes]

    _tpu_update(scores_of, codes_ref.shape[1], ids_ref, best_ref, tile_ref)


def _tpu_wide(vectors_ref, codes_ref, penalty_ref, ids_ref, scores_ref, best_ref, tile_ref):
    """Vectors [rows, c], codes [size, c]."""
    products = jax.lax.dot_general(
        vectors_ref[...],
        codes_ref[...].astype(jnp.float32),
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    scores_ref[...] = 2 * products - penalty_ref[...]

    def scores_of(tile, lanes):
        return scores_ref[tile, lanes]

    _tpu_update(scores_of, codes_ref.shape[0], ids_ref, best_ref, tile_ref)


def _tpu_update(scores_of, size, ids_ref, best_ref, tile_ref):
    """Takes a block of codes into account; after the last one writes the ids."""
    rows, j = ids_ref.shape[1], pl.program_id(1)

    @pl.when(j == 0)
    def start():
        best_ref[...] = jnp.full(best_ref.shape, -jnp.inf)
        tile_ref[...] = jnp.zeros(tile_ref.shape, jnp.int32)

    def step(i, _):
        some = pl.ds(pl.multiple_of(i * TPU_TILE, TPU_TILE), TPU_TILE)
        best, tile = best_ref[some], tile_ref[some]
        for t in range(size // LANES):
            scores = scores_of(some, slice(t * LANES, (t + 1) * LANES))
            is_better = scores > best
            best = jnp.where(is_better, scores, best)
            tile = jnp.where(is_better, j * (size // LANES) + t, tile)
        best_ref[some], tile_ref[some] = best, tile

    jax.lax.fori_loop(0, rows // TPU_TILE, step, None)

    @pl.when(j == pl.num_programs(1) - 1)
    def finish():
        best, ids = best_ref[...].T, tile_ref[...].T * LANES  # [lanes, rows]
        ids = ids + jax.lax.broadcasted_iota(jnp.int32, ids.shape, 0)
        is_best = best == jnp.max(best, axis=0, keepdims=True)
        ids_ref[...] = jnp.min(jnp.where(is_best, ids, LAST), axis=0, keepdims=True)


def _gpu_kernel(vectors_ref, codes_ref, penalty_ref, ids_ref, *, c):
    """Vectors [n, c]; doubled codes [c, z]."""
    n, last = vectors_ref.shape[0], codes_ref.shape[1] - 1
    rows = pl.program_id(0) * GPU_ROWS + jnp.arange(GPU_ROWS, dtype=jnp.int32)
    columns = jnp.arange(GPU_CODES, dtype=jnp.int32)

    def read(ref, *place):
        return plgpu.load(ref.at[place]).astype(jnp.float32)

    left = [read(vectors_ref, jnp.minimum(rows, n - 1), k)[:, None] for k in range(c)]

    def step(j, found):
        best, tile = found
        codes = j * GPU_CODES + columns
        right = [read(codes_ref, k, jnp.minimum(codes, last))[None, :] for k in range(c)]
        scores = chain(left, right) - plgpu.load(penalty_ref.at[codes])[None, :]
        is_better = scores > best
        return jnp.where(is_better, scores, best), jnp.where(is_better, j, tile)

    shape = (GPU_ROWS, GPU_CODES)
    start = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
    best, tile = jax.lax.fori_loop(0, penalty_ref.shape[0] // GPU_CODES, step, start)
    is_best = best == jnp.max(best, axis=1)[:, None]
    ids = jnp.min(jnp.where(is_best, tile * GPU_CODES + columns[None, :], LAST), axis=1)
    plgpu.store(ids_ref.at[rows], ids, mask=rows < n)
