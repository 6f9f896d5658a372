"""How the products of `benchmarks.decode_kernel` are cut into tiles, and its weights packed."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax.numpy as jnp

CHUNK = 128  # of the summed axis, in a product's step, where a layer's sizes allow it
COLUMNS = (16, 32, 64)  # of a tile's product
SPLITS = (1, 2)  # of the summed axis, where a tile's sums are added later
KEYS = 64  # of a step of attention


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a stack of layers.

    Attributes:
        width, depth, num_heads, hidden: of the layers; `hidden` is the MLP's.
        eps: of the norms.
        programs: that run at once.
        is_early: whether a program says that it has come before it reads weights ahead, and looks
            at the others' count by reading it; or says so afterwards, and adds 0 at every look.
        chunk: of the summed axis, in a product's step.
        splits: into how many parts a sum may be cut.
    """

    width: int
    depth: int
    num_heads: int
    hidden: int
    eps: float
    programs: int
    is_early: bool = False
    chunk: int = CHUNK
    splits: tuple[int, ...] = SPLITS

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def fits(self) -> bool:
        """Whether the kernel can compute such layers."""
        size = self.head_dim
        is_power = size * self.num_heads == self.width and size >= 16 and size & (size - 1) == 0
        return is_power and self.width % self.chunk == 0 and self.hidden % self.chunk == 0

    def key_parts(self, rows: int, places: int) -> int:
        """Returns how many programs share a head's keys."""
        return max(1, min(-(-places // KEYS), self.programs // (rows * self.num_heads)))

    @property
    def tilings(self) -> dict[str, "Tiling"]:
        """How the four products of a layer are cut; the two whose sums a norm reads, only once."""
        one = functools.partial(_tiling, programs=self.programs, chunk=self.chunk)
        return {
            "qkv": one(self.width, 3 * self.width, (1,)),
            "proj": one(self.width, self.width, self.splits),
            "up": one(self.width, 2 * self.hidden, (1,)),
            "down": one(self.hidden, self.width, self.splits),
        }


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a product with a matrix [k, n] is cut into tiles.

    Attributes:
        columns: of a tile.
        splits: of the summed axis.
        length: of a split's part of it.
        tiles: of the whole product.
    """

    columns: int
    splits: int
    length: int
    tiles: int


def _tiling(inner: int, outer: int, splits: tuple[int, ...], programs: int, chunk: int) -> Tiling:
    """Returns the cut whose busiest program reads least."""
    cuts = []
    for columns in COLUMNS:
        for count in splits:
            if outer % columns or inner % (count * chunk):
                continue
            tiles = count * outer // columns
            cost = -(-tiles // programs) * columns * inner // count
            cuts.append((cost, count, -columns, tiles))
    _, count, columns, tiles = min(cuts)
    columns = -columns
    return Tiling(columns, count, inner // count, tiles)


@flax.struct.dataclass
class PackedLayers:
    """The parameters of all layers, as the kernel reads them: a tile's columns lie together.

    Attributes:
        norm1, norm2: [l, d].
        qkv, proj, up, down: [l, n / columns, k, columns]; `up` has the gate's columns first.
    """

    norm1: Any
    norm2: Any
    qkv: Any
    proj: Any
    up: Any
    down: Any


def pack(layers: list[dict[str, Any]], sizes: Sizes) -> PackedLayers:
    """Returns the parameters of the layers as the kernel reads them, bfloat16; traceable.

    Args:
        layers: for each `norm1`, `norm2` [d], `qkv` [d, 3 d], `proj` [d, d], `gate` and `fc1`
            [d, m], `fc2` [m, d].
    """
    tilings = sizes.tilings

    def tiled(name, of):
        columns = tilings[name].columns
        parts = []
        for layer in layers:
            x = of(layer).astype(jnp.bfloat16)
            parts.append(jnp.swapaxes(x.reshape(len(x), -1, columns), 0, 1))
        return jnp.stack(parts)

    def norms(name):
        return jnp.stack([layer[name].astype(jnp.bfloat16) for layer in layers])

    return PackedLayers(
        norms("norm1"),
        norms("norm2"),
        tiled("qkv", lambda x: x["qkv"]),
        tiled("proj", lambda x: x["proj"]),
        tiled("up", lambda x: jnp.concatenate([x["gate"], x["fc1"]], axis=1)),
        tiled("down", lambda x: x["fc2"]),
    )
