"""Rotary tables against the formulas of the projects they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops.rotary import (
    rotary_table,
    rotary_table_2d,
    rotate_halves,
    rotate_neighbours,
)


def test_the_2d_table_is_llamagens_with_zero_rows_for_the_condition():
    side, size, prefix = 4, 100, 3  # the 3B model's head size
    half = size // 2
    frequencies = 1.0 / 10_000 ** (np.arange(0, half, 2)[: half // 2] / half)
    angles = np.outer(np.arange(side), frequencies)  # [side, e / 4]
    grid = np.concatenate(
        [
            np.broadcast_to(angles[:, None], (side, side, half // 2)),
            np.broadcast_to(angles[None, :], (side, side, half // 2)),
        ],
        axis=-1,
    ).reshape(side * side, half)
    positions = jnp.arange(prefix + side * side)[None]
    table = rotary_table_2d(positions, size, 10_000.0, width=side, prefix=prefix)
    zeros = np.zeros((prefix, half))
    np.testing.assert_allclose(table.cos[0], np.concatenate([zeros, np.cos(grid)]), atol=1e-6)
    np.testing.assert_allclose(table.sin[0], np.concatenate([zeros, np.sin(grid)]), atol=1e-6)
    condition = rotate_neighbours(
        jnp.ones((1, prefix, 2, size)), jax.tree.map(lambda t: t[:, :prefix], table)
    )
    assert not np.asarray(condition).any()


def test_halves_are_rotated_as_hugging_face_rotates_them():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
    positions = jnp.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    frequencies = 1.0 / 1e6 ** (np.arange(0, 8, 2) / 8)
    angles = np.tile(np.asarray(positions)[..., None] * frequencies, 2)[:, :, None]
    swapped = np.concatenate([-x[..., 4:], x[..., :4]], axis=-1)
    want = x * np.cos(angles) + swapped * np.sin(angles)
    got = rotate_halves(x, rotary_table(positions, 8, 1e6))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("rotate", [rotate_halves, rotate_neighbours])
def test_products_depend_on_the_difference_of_positions(rotate):
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(p, q):
        tables = [rotary_table(jnp.array([[at]]), 8, 100.0) for at in (p, q)]
        return float(jnp.sum(rotate(query, tables[0]) * rotate(key, tables[1])))

    assert abs(product(9, 4) - product(6, 1)) < 1e-5
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


def test_rotation_computes_in_float32_and_keeps_the_type():
    x = jnp.ones((1, 1, 1, 4), jnp.bfloat16)
    table = rotary_table(jnp.array([[1000]]), 4, 10_000.0)
    assert table.cos.dtype == jnp.float32
    got = rotate_halves(x, table)
    assert got.dtype == jnp.bfloat16
    want = rotate_halves(x.astype(jnp.float32), table).astype(jnp.bfloat16)
    np.testing.assert_array_equal(got, want)
