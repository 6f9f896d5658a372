import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops.nearest import nearest_code, nearest_code_reference, squared_distances


@pytest.mark.parametrize(("n", "z"), [(1, 1), (5, 3), (64, 128), (100, 129), (130, 1000)])
def test_blocked_search_equals_the_plain_one_at_ragged_sizes(n, z):
    keys = jax.random.split(jax.random.key(n + z))
    vectors, codebook = jax.random.normal(keys[0], (n, 8)), jax.random.normal(keys[1], (z, 8))
    ids = jax.jit(nearest_code)(vectors, codebook)
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, nearest_code_reference(vectors, codebook))
    distances = ((np.asarray(vectors)[:, None] - np.asarray(codebook)[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(ids, distances.argmin(-1))
    np.testing.assert_allclose(squared_distances(vectors, codebook), distances, atol=1e-4)


def test_ties_go_to_the_lowest_index_within_and_across_groups():
    codebook = jnp.zeros((400, 4)).at[jnp.array([7, 9, 300])].set(1.0)
    np.testing.assert_array_equal(nearest_code(jnp.ones((3, 4)), codebook), [7, 7, 7])


def test_ids_do_not_depend_on_the_compute_type_of_exact_inputs():
    codebook = jnp.round(jax.random.normal(jax.random.key(0), (300, 8)) * 8) / 8
    vectors = codebook[::3]
    np.testing.assert_array_equal(
        nearest_code(vectors.astype(jnp.bfloat16), codebook), jnp.arange(0, 300, 3)
    )
