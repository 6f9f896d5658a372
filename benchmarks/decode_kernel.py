"""All layers of a transformer for one new place of a few sequences, in one kernel for NVIDIA GPUs.

Drawing one id after another reads every weight once for each id, and does little else. As separate
kernels a layer is over ten, of 2 to 5 microseconds each, in which its weights could be read twice.
Here a layer is five phases of one kernel that runs through all layers: its programs, no more than
the GPU holds at once, share a phase's tiles and wait for one another between phases.

The layer is that of Llama and LlamaGen: RMS norms, rotary positions of neighbouring channels, a
gated MLP with SiLU, no biases. Weights, keys and values are bfloat16; the residual stream, norms,
logits, softmax and sums are float32, so that less is rounded than in separate kernels.

**Nothing uses it yet.** On an H200 its results were right, and it was 1.7 times as fast as the
package's layers with one sequence of GPT-B, but not with two, and a fifth as fast with 16
(docs/performance.md, `benchmarks.decode_layers`). That was before `Sizes.is_early` and before all
numbers of a phase were read at once, which were written without a GPU and have not run on one; its
arithmetic is tested with a single program on CPUs. Should a GPU not run all programs at once, they
give up waiting: the result is NaN, not a hang.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

from benchmarks.decode_tiling import KEYS, PackedLayers, Sizes
from toklip_jax.ops.nearest_blocked import shape_like

ROWS = 16  # of a matrix unit's left operand: sequences at most
FEW = 2  # sequences up to which the matrix unit isn't used
AHEAD = 2**14  # weights that a program reads before it waits: 64 registers of a thread
LOWEST = -1e30  # below all logits, and finite: the difference of two is no NaN
PATIENCE = 2**20  # looks at the others' count, about a second, before a program gives up
BROKEN = 2**30  # a count that says so to all
WARPS = 4
PER_CORE = 2  # programs that a multiprocessor holds for sure: 128 threads of 255 registers each


def run_layers(
    x: Float[Array, "b d"],
    packed: PackedLayers,
    keys: Float[Array, "l b k s e"],
    values: Float[Array, "l b k s e"],
    visible: Int[Array, "b s"],
    place: Int[Array, ""],
    cos: Float[Array, "s p"],
    sin: Float[Array, "s p"],
    sizes: Sizes,
    interpret: bool = False,
) -> tuple[Float[Array, "b d"], Float[Array, "l b k s e"], Float[Array, "l b k s e"]]:
    """Returns the last layer's output, float32, and keys and values with this place's in them.

    Args:
        x: the new place's input, of at most 16 sequences.
        keys: of the places before, after rotation; what stands at `place` and behind is not read.
        visible: 1 for places that the new one sees, among those before it.
        place: index of the new place.
        cos: of every place's angles, float32, p = e / 2.
        interpret: runs without a GPU, as a single program.

    Raises:
        ValueError: more sequences, or other sizes, than the kernel can compute.
    """
    b, d = x.shape
    if b > ROWS or not sizes.fits:
        raise ValueError(f"expected at most {ROWS} sequences and sizes that fit, got {b}, {sizes}")
    programs = 1 if interpret else sizes.programs
    tilings, parts = sizes.tilings, sizes.key_parts(b, keys.shape[3])
    sums = jnp.zeros((1 + tilings["down"].splits, b, d), jnp.float32).at[0].set(x)
    results = {
        "keys": (keys.shape, keys.dtype),
        "values": (values.shape, values.dtype),
        "arrived": ((1,), jnp.int32),
        "sums": (sums.shape, jnp.float32),
        "stream": ((b, d), jnp.float32),
        "projected": ((b, 3 * d), jnp.float32),
        "heads": ((parts, b, d), jnp.float32),
        "weights": ((parts, 2, b, sizes.num_heads), jnp.float32),
        "attended": ((tilings["proj"].splits, b, d), jnp.float32),
        "units": ((b, 2 * sizes.hidden), jnp.float32),
    }
    read = (
        place.reshape(1).astype(jnp.int32),
        packed.norm1,
        packed.norm2,
        packed.qkv,
        packed.proj,
        packed.up,
        packed.down,
        cos,
        sin,
        visible,
    )
    written = keys, values, jnp.zeros(1, jnp.int32), sums
    outs = pl.pallas_call(
        functools.partial(
            _kernel, sizes=sizes, programs=programs, rows=b, parts=parts, is_alone=interpret
        ),
        grid=(programs,),
        out_shape=[shape_like(shape, dtype, x) for shape, dtype in results.values()],
        input_output_aliases={len(read) + i: i for i in range(len(written))},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="decode_layers",
    )(*read, *written)
    outs = dict(zip(results, outs, strict=True))
    out = jnp.where(outs["arrived"][0] < BROKEN, outs["sums"].sum(axis=0), jnp.nan)
    return out, outs["keys"], outs["values"]


def _kernel(*refs, sizes, programs, rows, parts, is_alone):
    (place_ref, norm1, norm2, qkv, proj, up, down, cos, sin, visible), refs = refs[:10], refs[14:]
    keys, values, arrived, sums, stream, projected, heads, head_weights, attended, units = refs
    tilings, d, hidden, num_heads = sizes.tilings, sizes.width, sizes.hidden, sizes.num_heads
    me, place = pl.program_id(0), place_ref[0]
    is_few = rows <= FEW
    every_row = [jnp.arange(ROWS, dtype=jnp.int32)[:, None]]
    if is_few:
        every_row = [jnp.int32(i) for i in range(rows)]

    def span(start, count):
        columns = start + jnp.arange(count, dtype=jnp.int32)
        return columns if is_few else columns[None]

    def read(ref, *where):
        """Numbers of one row, or of all of them where the matrix unit takes them."""
        if is_few:
            return plgpu.load(ref.at[where], volatile=True)
        is_there = every_row[0] < rows
        return plgpu.load(ref.at[where], mask=is_there, other=0.0, volatile=True)

    def write(ref, value, *where):
        plgpu.store(ref.at[where], value, mask=None if is_few else every_row[0] < rows)

    def keep(tile, ref, value, *where):
        """Writes what all programs compute, once."""
        is_mine = jnp.broadcast_to(tile == 0, value.shape)
        if not is_few:
            is_mine = is_mine & (every_row[0] < rows)
        plgpu.store(ref.at[where], value, mask=is_mine)

    class Product:
        """A phase in which rows are multiplied with a matrix, a tile at a time.

        `left` reads what the numbers of a row are made of, `join` makes them, `kept` writes them,
        and `out` writes the product.
        """

        def __init__(self, name, matrix, left, join, out, norm=None, kept=None):
            self.matrix, self.left, self.join, self.out = matrix, left, join, out
            self.norm, self.kept = norm, kept
            self.tiling = tilings[name]
            self.tiles, self.count = self.tiling.tiles, matrix.shape[1]
            self.ahead = AHEAD // (sizes.chunk * self.tiling.columns)

        def starts(self, tile):
            first = tile // self.count * self.tiling.length
            return [first + i for i in range(0, self.tiling.length, sizes.chunk)]

        def fetch(self, layer, tile, is_mine=None):
            """The first weights of a tile, which may be read while others still work."""
            return [self.chunk(layer, tile, x, is_mine) for x in self.starts(tile)[: self.ahead]]

        def chunk(self, layer, tile, start, is_mine=None):
            lines = start + jnp.arange(sizes.chunk, dtype=jnp.int32)[:, None]
            columns = jnp.arange(self.tiling.columns, dtype=jnp.int32)[None]
            where = self.matrix.at[layer, tile % self.count, lines, columns]
            if is_mine is None:
                return plgpu.load(where)
            mask = jnp.broadcast_to(is_mine, (sizes.chunk, self.tiling.columns))
            return plgpu.load(where, mask=mask, other=0.0)

        def finish(self, layer, tile, fetched):
            shape = (sizes.chunk if is_few else ROWS, self.tiling.columns)
            totals = [jnp.zeros(shape, jnp.float32) for _ in every_row]
            squares = [jnp.float32(0) for _ in every_row]
            starts = self.starts(tile)
            if is_few:  # all at once: one after another, each waits for the one before
                read_before = [self.operands(layer, start) for start in starts]
            for i, start in enumerate(starts):
                weights = fetched[i] if i < len(fetched) else self.chunk(layer, tile, start)
                scale, parts = read_before[i] if is_few else self.operands(layer, start)
                for j, (row, part) in enumerate(zip(every_row, parts, strict=True)):
                    x = self.join(*part)
                    squares[j] += x * x
                    if self.kept is not None:
                        self.kept(tile, x, row, span(start, sizes.chunk))
                    x = x * scale
                    if is_few:
                        totals[j] += x[:, None] * weights.astype(jnp.float32)
                    else:
                        totals[j] += plgpu.dot(x.astype(jnp.bfloat16), weights)
            column, size = tile % self.count, self.tiling.columns
            for row, total, square in zip(every_row, totals, squares, strict=True):
                total = jnp.sum(total, axis=0) if is_few else total
                if self.norm is not None:
                    mean = jnp.sum(square, axis=-1) / d
                    inverse = jax.lax.rsqrt(mean + sizes.eps)
                    total = total * (inverse if is_few else inverse[:, None])
                self.out(total, tile // self.count, row, span(column * size, size))

        def operands(self, layer, start):
            """The norm's scale, 1 without one, and what each row's part is made of."""
            columns, scale = span(start, sizes.chunk), 1
            if self.norm is not None:
                scale = plgpu.load(self.norm.at[layer, columns]).astype(jnp.float32)
            return scale, [self.left(row, columns) for row in every_row]

    class Attention:
        """The phase in which each part of the keys is seen by the new place, for each head."""

        tiles = rows * num_heads * parts
        pairs = jnp.arange(sizes.head_dim, dtype=jnp.int32)

        def which(self, item):
            part, item = item // (rows * num_heads), item % (rows * num_heads)
            return part, item // num_heads, item % num_heads

        def fetch(self, layer, item, is_mine=None):
            part, sequence, head = self.which(item)
            return self.block(layer, sequence, head, part, is_mine)

        def block(self, layer, sequence, head, number, is_mine=None):
            at = number * KEYS + jnp.arange(KEYS, dtype=jnp.int32)
            is_read = at < place if is_mine is None else (at < place) & is_mine
            mask = jnp.broadcast_to(is_read[:, None], (KEYS, sizes.head_dim))
            where = layer, sequence, head, at[:, None], self.pairs[None]
            seen = plgpu.load(visible.at[sequence, at], mask=is_read, other=0)
            return seen, *(
                plgpu.load(ref.at[where], mask=mask, other=0.0) for ref in (keys, values)
            )

        def finish(self, layer, item, fetched):
            part, sequence, head = self.which(item)
            pairs = self.pairs
            cosine = plgpu.load(cos.at[place, pairs // 2])
            sine = plgpu.load(sin.at[place, pairs // 2])
            sine = jnp.where(pairs % 2 == 0, -sine, sine)

            def own(third, channels):
                where = third * d + head * sizes.head_dim + channels
                return plgpu.load(projected.at[sequence, where], volatile=True)

            def rotated(third):
                return own(third, pairs) * cosine + own(third, pairs ^ 1) * sine

            query = rotated(0) * sizes.head_dim**-0.5
            key, value = rotated(1).astype(keys.dtype), own(2, pairs).astype(values.dtype)

            @pl.when(part == 0)
            def keep():
                plgpu.store(keys.at[layer, sequence, head, place, pairs], key)
                plgpu.store(values.at[layer, sequence, head, place, pairs], value)

            logit = jnp.sum(query * key.astype(jnp.float32))
            is_first = part == 0  # whose part the new place itself is
            start = (
                jnp.where(is_first, logit, LOWEST),
                jnp.where(is_first, jnp.float32(1), 0.0),
                jnp.where(is_first, value.astype(jnp.float32), 0.0),
            )

            def see(carry, block):
                largest, weight, out = carry
                seen, old_keys, old_values = block
                logits = jnp.sum(old_keys.astype(jnp.float32) * query[None], axis=1)
                logits = jnp.where(seen != 0, logits, LOWEST)
                new = jnp.maximum(largest, jnp.max(logits))
                weights = jnp.where(seen != 0, jnp.exp(logits - new), 0.0)
                factor = jnp.exp(largest - new)
                added = jnp.sum(weights[:, None] * old_values.astype(jnp.float32), axis=0)
                return new, weight * factor + jnp.sum(weights), out * factor + added

            largest, weight, out = see(start, fetched)
            blocks = pl.cdiv(keys.shape[3], KEYS)
            if parts < blocks:
                count = (pl.cdiv(place, KEYS) - part + parts - 1) // parts

                def step(i, carry):
                    return see(carry, self.block(layer, sequence, head, part + i * parts))

                largest, weight, out = jax.lax.fori_loop(1, count, step, (largest, weight, out))
            plgpu.store(heads.at[part, sequence, head * sizes.head_dim + pairs], out)
            plgpu.store(head_weights.at[part, jnp.int32(0), sequence, head], largest)
            plgpu.store(head_weights.at[part, jnp.int32(1), sequence, head], weight)

    def stream_before(row, columns):
        """What enters a layer: the sums of the layer before."""
        return [read(sums, i, row, columns) for i in range(1 + tilings["down"].splits)]

    def stream_between(row, columns):
        """What enters a layer's MLP."""
        added = [read(attended, i, row, columns) for i in range(tilings["proj"].splits)]
        return [read(stream, row, columns), *added]

    def total(*parts):
        return functools.reduce(jnp.add, parts)

    def attention_of(row, columns):
        """The parts of attention."""
        head = columns // sizes.head_dim
        where = (0, row, head), (1, row, head)
        largest, weights = ([read(head_weights, i, *x) for i in range(parts)] for x in where)
        return largest, weights, [read(heads, i, row, columns) for i in range(parts)]

    def attended_to(largest, weights, outs):
        most = functools.reduce(jnp.maximum, largest)
        factors = [jnp.exp(x - most) for x in largest]
        weight = total(*(x * y for x, y in zip(factors, weights, strict=True)))
        return total(*(x * y for x, y in zip(factors, outs, strict=True))) / weight

    def gate_and_unit(row, columns):
        return read(units, row, columns), read(units, row, columns + hidden)

    def gated(gate, unit):
        return gate * jax.nn.sigmoid(gate) * unit

    phases = (
        Product(
            "qkv",
            qkv,
            stream_before,
            total,
            lambda out, _, row, columns: write(projected, out, row, columns),
            norm1,
            lambda tile, x, *where: keep(tile, stream, x, *where),
        ),
        Attention(),
        Product(
            "proj",
            proj,
            attention_of,
            attended_to,
            lambda out, *where: write(attended, out, *where),
        ),
        Product(
            "up",
            up,
            stream_between,
            total,
            lambda out, _, row, columns: write(units, out, row, columns),
            norm2,
            lambda tile, x, *where: keep(tile, sums, x, jnp.int32(0), *where),
        ),
        Product(
            "down",
            down,
            gate_and_unit,
            gated,
            lambda out, split, *where: write(sums, out, 1 + split, *where),
        ),
    )

    def one(layer, _):
        for number, phase in enumerate(phases):
            is_mine = me < phase.tiles
            target = (layer * len(phases) + number + 1) * programs
            if sizes.is_early and not is_alone:
                _come(arrived)
            fetched = phase.fetch(layer, me, is_mine)
            if not (sizes.is_early or is_alone):
                _come(arrived)
            if not is_alone:
                _wait(arrived, target, sizes.is_early)
            pl.when(is_mine)(functools.partial(phase.finish, layer, me, fetched))
            if phase.tiles > programs:

                def another(i, _, phase=phase):
                    tile = me + i * programs
                    phase.finish(layer, tile, phase.fetch(layer, tile))
                    return _

                count = (phase.tiles - me + programs - 1) // programs
                jax.lax.fori_loop(1, count, another, jnp.int32(0))
        return _

    jax.lax.fori_loop(0, sizes.depth, one, jnp.int32(0))


def _come(arrived):
    """Says that this program's work of a phase is done.

    What it wrote is seen by whoever sees the count. Nothing waits for the count itself, but the
    program waits here for what it reads and writes at that moment.
    """
    plgpu.debug_barrier()
    plgpu.atomic_add(arrived, (0,), 1)


def _wait(arrived, target, is_reading):
    """Until so many have come."""

    def look(carry):
        if is_reading:
            return plgpu.load(arrived.at[0], volatile=True), carry[1] + 1
        return plgpu.atomic_add(arrived, (0,), 0), carry[1] + 1

    count, _ = jax.lax.while_loop(
        lambda carry: (carry[0] < target) & (carry[1] < PATIENCE),
        look,
        (jnp.int32(0), jnp.int32(0)),
    )

    @pl.when(count < target)
    def give_up():
        plgpu.atomic_max(arrived, (0,), BROKEN)

    plgpu.debug_barrier()


def run_waits(arrived: Int[Array, "1"], times: int, sizes: Sizes) -> Int[Array, "1"]:
    """Returns the count that is left of waiting so many times, with nothing to do in between.

    What the kernel's programs spend on one another, alone; on GPUs only.

    Args:
        arrived: zero.
    """

    def body(_, out):
        def one(i, carry):
            _come(out)
            _wait(out, (i + 1) * sizes.programs, sizes.is_early)
            return carry

        jax.lax.fori_loop(0, times, one, jnp.int32(0))

    return pl.pallas_call(
        body,
        grid=(sizes.programs,),
        out_shape=shape_like((1,), jnp.int32, arrived),
        input_output_aliases={0: 0},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=1),
        name="decode_waits",
    )(arrived)
