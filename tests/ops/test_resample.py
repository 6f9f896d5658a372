import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import fit_images, resample_positions, resize_images, resize_images_tf1


def test_bilinear_resize_equals_the_recorded_one(golden):
    recorded = np.load(golden("teacher_tiny/interp.npz"))
    images = jnp.asarray(recorded["image_nchw"].transpose(0, 2, 3, 1))
    for name in ("down_48", "up_80"):
        want = recorded[name].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(resize_images(images, *want.shape[1:3]), want, atol=2e-5)


def test_position_table_of_the_same_size_is_returned_as_it_is():
    table = jax.random.normal(jax.random.key(0), (16, 3))
    np.testing.assert_array_equal(resample_positions(table, (4, 4)), table)


def test_resampled_positions_keep_row_major_order_and_constants():
    rows = jnp.repeat(jnp.arange(6.0), 6)[:, None]  # grows down the rows only
    grid = resample_positions(rows, (9, 9)).reshape(9, 9)
    np.testing.assert_allclose(grid, jnp.broadcast_to(grid[:, :1], (9, 9)), atol=1e-5)
    assert (jnp.diff(grid[:, 0]) > 0).all()
    np.testing.assert_allclose(resample_positions(jnp.ones((16, 2)), (7, 7)), 1, atol=1e-6)


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        resample_positions(jnp.zeros((15, 2)), (4, 4))


def test_normalised_vectors_have_length_one_and_zero_stays_finite_in_gradient():
    x = jax.random.normal(jax.random.key(0), (5, 8))
    np.testing.assert_allclose(jnp.linalg.norm(l2_normalize(x), axis=-1), 1, atol=1e-6)
    grad = jax.grad(lambda v: l2_normalize(v).sum())(jnp.zeros((1, 4)))
    assert jnp.isfinite(grad).all()


def test_tf1_resize_reads_pixel_i_at_i_times_the_ratio():
    row = jnp.asarray([0.0, 10.0, 40.0]).reshape(1, 1, 3, 1)
    got = resize_images_tf1(row, 1, 6)[0, 0, :, 0]
    np.testing.assert_allclose(got, [0, 5, 10, 25, 40, 40], atol=1e-5)  # the last is repeated
    np.testing.assert_allclose(resize_images_tf1(row, 1, 2)[0, 0, :, 0], [0, 25], atol=1e-5)


@pytest.mark.parametrize(("name", "height", "width"), [("down", 5, 9), ("up", 50, 70)])
def test_tf1_resize_is_torch_fidelitys(golden, name, height, width):
    pixels = np.random.default_rng(8).integers(0, 256, (2, 48, 64, 3))[:1].astype(np.float32)
    want = np.load(golden("inception/outputs.npz"))[name]
    got = resize_images_tf1(jnp.asarray(pixels), height, width)
    np.testing.assert_allclose(got[:, : want.shape[1]], want, atol=2e-5)  # of 255


def test_images_of_another_size_alone_are_resized():
    images = jax.random.uniform(jax.random.key(0), (2, 4, 6, 3))
    assert fit_images(images, (4, 6)) is images
    np.testing.assert_array_equal(fit_images(images, (8, 6)), resize_images(images, 8, 6))
    videos = images[:, None]
    assert fit_images(videos, (1, 4, 6)) is videos
    for pixels, size in ((videos, (4, 6)), (images, (1, 4, 6)), (videos, (1, 8, 6))):
        with pytest.raises(UserError, match="expected pixels of"):
            fit_images(pixels, size)
