"""Rows of a codebook are looked up by ids of any integer type."""

import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.quantisers.codebook import rows_of


@pytest.mark.parametrize(
    ("dtype", "size"), [("uint8", 256), ("int8", 128), ("uint16", 65_536), ("int32", 65_536)]
)
def test_the_last_of_as_many_codes_as_a_type_of_ids_can_count_is_found(dtype, size):
    codebook = jnp.arange(size, dtype=jnp.float32)[:, None]
    ids = np.array([[0, size - 1]], dtype)
    np.testing.assert_array_equal(rows_of(codebook, jnp.asarray(ids))[..., 0], [[0, size - 1]])


@pytest.mark.parametrize("wrong", [-1, 5, 2**31 - 1])
def test_ids_outside_the_codebook_give_nan(wrong):
    rows = rows_of(np.ones((5, 2), np.float32), jnp.array([4, wrong]))
    np.testing.assert_array_equal(np.isnan(rows), [[False, False], [True, True]])
