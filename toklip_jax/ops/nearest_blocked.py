"""Nearest code on CPUs, and what the implementations share: the score, and blocks of vectors."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.processor import processor_flags

METRICS = ("euclidean", "inner_product")
NARROW = 16  # widest codes whose scores are summed one by one (`chain`)
GROUP = 128  # codes whose maximum is taken before the arg max
ROWS = 64  # vectors scored at a time; from 512 on (8 M scores), XLA on CPU is ten times slower
WIDE_ROWS = 256  # the same against wide codes, as far as there are at most `SCORES`
SCORES = 2**20
PREPARED = 2**18  # numbers of the codebook (1 MiB) that are prepared at a time
SCREENED = 2**16  # wide codes from which it pays to screen them in bfloat16
SCREEN_ROWS, SCREEN_CODES = 512, 1024  # of a product in bfloat16, whose scores take 2 MiB
SCREEN_GROUP = 128  # codes of whose scores only the maximum is kept, 4 MiB at 262,144 codes
EXACT = 2**21  # numbers of the groups' codes (8 MiB) that are scored exactly at a time
SHORTEST = 1e-12  # codes of which the longest is shorter aren't screened
MOST_GROUPS = 24  # that are scored for a block of vectors before all codes are
PRODUCT_ROWS, PRODUCT_CODES = 1024, 3072  # of a product on a GPU, whose scores take 12 MiB


def search_in_blocks(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"], metric: str = METRICS[0]
) -> Int[Array, " n"]:
    """Blocks of vectors against the codebook, itself in blocks where it is large; ids are int32."""
    z, c = codebook.shape
    size = min(z, max(GROUP, PREPARED // c))
    at_a_time = ROWS if c <= NARROW else max(ROWS, min(WIDE_ROWS, SCORES // size))
    if size == z:
        search = _searcher(codebook, metric)
        return by_rows(lambda block: search(block)[1], vectors, at_a_time)

    def chunk(rows):
        def against(i, found):
            start = jnp.minimum(i * size, z - size)  # the last block may overlap the one before
            codes = jax.lax.dynamic_slice_in_dim(codebook, start, size)
            search = _searcher(codes, metric)
            scores, new_ids = by_rows(search, rows, at_a_time)
            best, ids = found
            is_better = scores > best
            return jnp.where(is_better, scores, best), jnp.where(is_better, new_ids + start, ids)

        nothing = jnp.full(len(rows), -jnp.inf), jnp.zeros(len(rows), jnp.int32)
        nothing = varying_as(nothing, rows)
        return jax.lax.fori_loop(0, -(-z // size), against, nothing)[1]

    return by_rows(chunk, vectors, max(at_a_time, PREPARED // c))


def search_by_screening(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"], metric: str = METRICS[0]
) -> Int[Array, " n"]:
    """Scores all codes in bfloat16, and in float32 those that may be the best; ids are int32.

    What rounding changes in an inner product is at most |v - v'| |e| + |v'| |e - e'|, where v' and
    e' are the rounded ones. Groups of codes are scored exactly from the greatest rounded maximum
    on, until the next is too small for that. Where a vector has too many such groups, as among
    equal codes, its block is searched in float32.
    """
    return by_rows(lambda rows: _screened(rows, codebook, metric), vectors, SCREEN_ROWS)


def _screened(rows, codebook, metric):
    z, c = codebook.shape
    size = min(z, SCREEN_CODES)
    group = SCREEN_GROUP if size % SCREEN_GROUP == 0 else size
    inside = size // group  # groups of a block of codes
    rows = rows.astype(jnp.float32)
    rounded = _rounded(rows)

    def start_of(block):
        return jnp.minimum(block * size, z - size)  # the last may overlap the one before

    def screen(block, found):
        maxima, longest, farthest = found
        codes = jax.lax.dynamic_slice_in_dim(codebook, start_of(block), size).astype(jnp.float32)
        rough = _rounded(codes)
        products = jnp.einsum(
            "rc,zc->rz",
            rounded.astype(jnp.bfloat16),
            rough.astype(jnp.bfloat16),
            preferred_element_type=jnp.float32,
        )
        scores = 2 * products - penalty_of(codes, metric)
        new = jnp.max(scores.reshape(len(rows), inside, group), axis=-1)
        maxima = jax.lax.dynamic_update_slice_in_dim(maxima, new, block * inside, 1)
        longest = jnp.maximum(longest, jnp.max(_lengths(codes)))
        return maxima, longest, jnp.maximum(farthest, jnp.max(_lengths(codes - rough)))

    blocks = -(-z // size)
    found = jnp.zeros((len(rows), blocks * inside)), jnp.float32(0), jnp.float32(0)
    found = jax.lax.fori_loop(0, blocks, screen, varying_as(found, rows))
    maxima, longest, farthest = found
    doubt = 2 * (_lengths(rows - rounded) * longest + _lengths(rounded) * farthest)
    # Sums of c products are off by c 2^-24 of their terms' magnitudes at most, in each type.
    doubt = 1.001 * doubt + 4 * (c + 2) * 2.0**-24 * longest * (2 * _lengths(rows) + longest)
    # Lengths whose squares float32 can't hold bound nothing.
    doubt = jnp.where((longest > SHORTEST) & jnp.isfinite(doubt), doubt, jnp.inf)

    def score(row_and_group):
        row, which = row_and_group
        start = start_of(which // inside) + which % inside * group
        codes = jax.lax.dynamic_slice_in_dim(codebook, start, group).astype(jnp.float32)
        best, place = _first_best(scores_of(row[None], codes, penalty_of(codes, metric))[0])
        return best, start + place

    def is_open(state):
        best, _, _, (greatest, _), count = state
        return jnp.any(greatest >= best - doubt) & (count < MOST_GROUPS)

    def look(state):
        best, ids, maxima, (greatest, which), count = state
        at_a_time = max(1, EXACT // (group * c))
        new, new_ids = jax.lax.map(score, (rows, which), batch_size=at_a_time)
        is_better = (new > best) | ((new == best) & (new_ids < ids))
        is_better &= greatest >= best - doubt
        groups = jnp.arange(maxima.shape[1], dtype=jnp.int32)
        maxima = jnp.where(groups == which[:, None], -jnp.inf, maxima)
        best, ids = jnp.where(is_better, new, best), jnp.where(is_better, new_ids, ids)
        return best, ids, maxima, _first_best(maxima), count + 1

    nothing = jnp.full(len(rows), -jnp.inf), jnp.zeros(len(rows), jnp.int32)
    state = *nothing, maxima, _first_best(maxima), jnp.int32(0)
    best, ids, _, (greatest, _), _ = jax.lax.while_loop(is_open, look, varying_as(state, rows))
    return jax.lax.cond(
        jnp.any(greatest >= best - doubt),
        lambda: search_in_blocks(rows, codebook, metric),
        lambda: ids,
    )


def search_on_cpu(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"], metric: str = METRICS[0]
) -> Int[Array, " n"]:
    """By screening where codes are wide and many and the processor has products of bfloat16."""
    z, c = codebook.shape
    is_screened = c > NARROW and z >= SCREENED and multiplies_bfloat16()
    search = search_by_screening if is_screened else search_in_blocks
    return search(vectors, codebook, metric)


def _rounded(x):
    """Float32 with the digits of bfloat16; a cast there and back may be compiled away."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _lengths(x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1))


@functools.cache
def multiplies_bfloat16() -> bool:
    """Returns whether this computer's processor has products of bfloat16 (x86 under Linux)."""
    flags = processor_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def search_by_products(
    vectors: Float[Array, "n c"], codebook: Float[Array, "z c"], metric: str = METRICS[0]
) -> Int[Array, " n"]:
    """Blocks of vectors against blocks of codes, by the library's products; ids are int32."""
    size = min(len(codebook), PRODUCT_CODES)

    def search(rows):
        rows = rows.astype(jnp.float32)

        def against(i, found):
            best, ids = found
            # The last block may overlap the one before, whose ids win where scores are equal.
            start = jnp.minimum(i * size, len(codebook) - size)
            codes = jax.lax.dynamic_slice_in_dim(codebook, start, size).astype(jnp.float32)
            scores = scores_of(rows, codes, penalty_of(codes, metric))
            new = jnp.max(scores, axis=-1)
            places = start + jnp.argmax(scores, axis=-1).astype(jnp.int32)
            return jnp.maximum(best, new), jnp.where(new > best, places, ids)

        nothing = jnp.full(len(rows), -jnp.inf), jnp.zeros(len(rows), jnp.int32)
        count = -(-len(codebook) // size)
        return jax.lax.fori_loop(0, count, against, varying_as(nothing, rows))[1]

    return by_rows(search, vectors, PRODUCT_ROWS)


def scores_of(
    vectors: Float[Array, "n c"], codes: Float[Array, "z c"], penalty: Float[Array, " z"]
) -> Float[Array, "n z"]:
    """Returns 2 v . e - penalty, float32, greatest for the nearest; `penalty_of` gives the last."""
    return 2 * jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST) - penalty


def narrow_scores_of(
    vectors: Float[Array, "n c"], codes: Float[Array, "z c"], penalty: Float[Array, " z"]
) -> Float[Array, "n z"]:
    """`scores_of` summed one by one, which no library orders otherwise."""
    return 2 * chain(vectors.T[:, :, None], codes.T[:, None, :]) - penalty


def squares_of(codes: Float[Array, "z c"]) -> Float[Array, " z"]:
    """Returns |e|^2, float32, rounded alike in all uses.

    Hence the barrier: a sum that is fused into a product is rounded as the product's library does.
    """
    return jax.lax.optimization_barrier(jnp.sum(codes.astype(jnp.float32) ** 2, axis=-1))


def penalty_of(codes: Float[Array, "z c"], metric: str) -> Float[Array, " z"]:
    """Returns what a metric subtracts from twice the inner product: |e|^2, or nothing."""
    return squares_of(codes) if metric == "euclidean" else jnp.zeros(len(codes), jnp.float32)


def by_rows(function: Callable[[Array], Any], vectors: Array, rows: int) -> Any:
    """`function` of blocks of `rows` vectors in turn; the last may overlap the one before, which
    needs no padded copy of the vectors. The results have the block's vectors first."""
    n = len(vectors)
    if n <= rows:
        return function(vectors)

    def step(i, results):
        start = jnp.minimum(i * rows, n - rows)
        new = function(jax.lax.dynamic_slice_in_dim(vectors, start, rows))
        return jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, start, 0), results, new
        )

    block = jax.ShapeDtypeStruct((rows, *vectors.shape[1:]), vectors.dtype)
    empty = jax.tree.map(lambda x: jnp.empty(n, x.dtype), jax.eval_shape(function, block))
    return jax.lax.fori_loop(0, -(-n // rows), step, varying_as(empty, vectors))


def varying_as(tree: Any, like: Array) -> Any:
    """Returns arrays marked as varying over the mesh axes that `like` varies over.

    Inside a `jax.shard_map` that checks this, a loop's state must vary as its results do.
    """
    axes = jax.typeof(like).manual_axis_type.varying

    def cast(x):
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def shape_like(shape: tuple[int, ...], dtype: Any, like: Array) -> jax.ShapeDtypeStruct:
    """Returns a kernel's result's shape and type, varying as `like` does (see `varying_as`)."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)


def chain(left: Any, right: Any) -> Array:
    """Returns left[0] * right[0] + left[1] * right[1] + ..., summed in this order."""
    total = left[0] * right[0]
    for i in range(1, len(left)):
        total = total + left[i] * right[i]
    return total


def _searcher(codebook, metric) -> Callable:
    """Prepares codes; returns a function from vectors [r, c] to their best scores and ids."""
    codebook = codebook.astype(jnp.float32)
    z, c = codebook.shape
    group = min(GROUP, z)
    # Padded codes never win: their score is -inf, and equal scores go to the lowest index.
    codes = jnp.pad(codebook, ((0, -z % group), (0, 0)))
    penalty = jnp.pad(penalty_of(codebook, metric), (0, -z % group), constant_values=jnp.inf)
    return (_recomputing if c <= NARROW else _holding)(codes, penalty, group)


def _recomputing(codes, penalty, group):
    """Finds the group with the greatest maximum by a product, then scores that group again.

    XLA on CPU fuses a product with a maximum, and so never stores those scores, but not with an arg
    max; for the fusion to be fast the penalty must be part of the product. A product is rounded in
    an order of its library's. Where another group's maximum is so close that this may have chosen
    the winner, the block's scores are all summed one by one: the ids are those of these sums.
    """
    c = codes.shape[1]
    grouped = jnp.concatenate([2 * codes, -penalty[:, None]], axis=1).reshape(-1, group, c + 1)
    columns = jnp.concatenate([codes, penalty[:, None]], axis=1).reshape(-1, group, c + 1)
    columns = columns.swapaxes(1, 2)  # [g, c + 1, group]
    # Else their making is fused into every use of them.
    grouped, columns = jax.lax.optimization_barrier((grouped, columns))
    longest = jnp.sqrt(jnp.max(squares_of(codes)))

    def search(block):
        block = block.astype(jnp.float32)
        extended = jnp.pad(block, ((0, 0), (0, 1)), constant_values=1)
        products = jnp.einsum("rc,gzc->grz", extended, grouped, precision="highest")
        maxima = jax.lax.optimization_barrier(products.max(-1)).T  # [r, g]
        greatest, winner = _first_best(maxima)
        length = jnp.sqrt(jnp.sum(block**2, axis=-1))
        # Both sums of c + 1 products are off by (c + 2) 2^-24 of their terms' magnitudes at most,
        # and two scores are compared.
        doubt = 4 * (c + 2) * 2.0**-24 * longest * (2 * length + longest)
        close = jnp.sum(maxima >= (greatest - doubt)[:, None], axis=-1)
        return jax.lax.cond(jnp.all(close == 1), score_winner, score_all, block, winner)

    def score_winner(block, winner):
        inside = jax.lax.optimization_barrier(columns[winner])  # [r, c + 1, group]
        parts = jnp.moveaxis(inside, 1, 0)
        best, place = _first_best(2 * chain(block.T[:, :, None], parts[:-1]) - parts[-1])
        return best, winner * group + place

    def score_all(block, _):
        scores = narrow_scores_of(block, codes, penalty).reshape(len(block), -1, group)
        return _first_of_groups(jax.lax.optimization_barrier(scores))

    return search


def _holding(codes, penalty, group):
    """Holds a block's scores; the arg max over all codes would take several times longer."""

    def search(block):
        scores = scores_of(block.astype(jnp.float32), codes, penalty)
        scores = scores.reshape(len(block), -1, group)
        return _first_of_groups(scores)

    return search


def _first_of_groups(scores):
    """The maximum of scores [r, g, group] and its first index, found group first."""
    best, winner = _first_best(jnp.max(scores, axis=-1))
    inside = jnp.take_along_axis(scores, winner[:, None, None], axis=1)[:, 0]
    return best, winner * scores.shape[-1] + _first_best(inside)[1]


def _first_best(scores):
    """The maximum along the last axis and its first index (0 if all are NaN), each by a reduction
    that CPUs do in vectors, which they don't do an arg max in."""
    best, size = jnp.max(scores, axis=-1), scores.shape[-1]
    places = jnp.arange(size, dtype=jnp.int32)
    return best, jnp.min(jnp.where(scores < best[..., None], size - 1, places), axis=-1)
