import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import resample_positions, resize_images


def test_bilinear_resize_equals_the_recorded_one(golden):
    recorded = np.load(golden("teacher_tiny/interp.npz"))
    images = jnp.asarray(recorded["image_nchw"].transpose(0, 2, 3, 1))
    for name in ("down_48", "up_80"):
        want = recorded[name].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(resize_images(images, *want.shape[1:3]), want, atol=2e-5)


def test_position_table_of_the_same_size_is_returned_as_it_is():
    table = jax.random.normal(jax.random.key(0), (16, 3))
    np.testing.assert_array_equal(resample_positions(table, 4), table)


def test_resampled_positions_keep_row_major_order_and_constants():
    rows = jnp.repeat(jnp.arange(6.0), 6)[:, None]  # grows down the rows only
    grid = resample_positions(rows, 9).reshape(9, 9)
    np.testing.assert_allclose(grid, jnp.broadcast_to(grid[:, :1], (9, 9)), atol=1e-5)
    assert (jnp.diff(grid[:, 0]) > 0).all()
    np.testing.assert_allclose(resample_positions(jnp.ones((16, 2)), 7), 1, atol=1e-6)


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        resample_positions(jnp.zeros((15, 2)), 4)


def test_normalised_vectors_have_length_one_and_zero_stays_finite_in_gradient():
    x = jax.random.normal(jax.random.key(0), (5, 8))
    np.testing.assert_allclose(jnp.linalg.norm(l2_normalize(x), axis=-1), 1, atol=1e-6)
    grad = jax.grad(lambda v: l2_normalize(v).sum())(jnp.zeros((1, 4)))
    assert jnp.isfinite(grad).all()
