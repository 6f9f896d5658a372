"""Rotary positions (RoFormer, arXiv 2104.09864): pairs of channels are rotated by their position.

Pair i of a query or key at position p is rotated by p times the frequency of i, so that products of
queries and keys depend on the difference of their positions. Projects differ in which channels make
a pair and in whether a position is a number or a place of a grid.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class RotaryTable:
    """Cosine and sine of every pair's angle at every place, float32 [b, n, e / 2]."""

    cos: jax.Array
    sin: jax.Array


def rotary_table(positions: Int[Array, "b n"], head_dim: int, base: float) -> RotaryTable:
    """Returns the table of 1-D positions: angle p * base^(-2 i / e) for pair i."""
    angles = positions[..., None].astype(jnp.float32) * _frequencies(head_dim, base)
    return RotaryTable(jnp.cos(angles), jnp.sin(angles))


def rotary_table_2d(
    positions: Int[Array, "b n"], head_dim: int, base: float, *, width: int, prefix: int = 0
) -> RotaryTable:
    """Returns the table of row-major places of a grid, as LlamaGen's GPT has it (arXiv 2406.06525).

    The first half of the pairs is rotated by the row and the second half by the column, each with
    the frequencies of a 1-D table of half the head size. Positions below `prefix` are those of the
    condition, whose cosines and sines are both 0 in LlamaGen: their queries and keys become 0.

    Args:
        positions: `prefix` is the grid's first place.
        width: columns of the grid.
    """
    places = jnp.maximum(positions - prefix, 0)
    frequencies = _frequencies(head_dim // 2, base)
    rows = (places // width)[..., None].astype(jnp.float32) * frequencies
    columns = (places % width)[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([rows, columns], axis=-1)  # [b, n, e / 2]
    is_place = (positions >= prefix)[..., None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return RotaryTable(jnp.where(is_place, cos, 0), jnp.where(is_place, sin, 0))


def rotate_halves(x: Float[Array, "b n k e"], table: RotaryTable) -> Float[Array, "b n k e"]:
    """Rotates channels (i, i + e / 2) in float32, as Llama and Qwen do at Hugging Face."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    first, second = _rotate_pairs(first, second, table)
    return jnp.concatenate([first, second], axis=-1).astype(x.dtype)


def rotate_neighbours(x: Float[Array, "b n k e"], table: RotaryTable) -> Float[Array, "b n k e"]:
    """Rotates channels (2 i, 2 i + 1) in float32, as Llama's first release and LlamaGen do."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)  # [b, n, k, e / 2, 2]
    rotated = jnp.stack(_rotate_pairs(pairs[..., 0], pairs[..., 1], table), axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def _rotate_pairs(first, second, table):
    cos, sin = table.cos[:, :, None], table.sin[:, :, None]  # [b, n, 1, e / 2], for all heads
    return first * cos - second * sin, second * cos + first * sin


def _frequencies(size, base):
    """base^(-2 i / size) for i < size / 2, float32."""
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.float32(1) / np.float32(base) ** exponents
