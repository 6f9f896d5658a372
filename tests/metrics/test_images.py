"""PSNR and SSIM against scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from toklip_jax.metrics import psnr, ssim
from toklip_jax.ops.pixels import to_unit_range


def pairs(noise, size=(40, 33)):
    random = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, size[0])[:, None, None] * np.ones((3, *size, 3))
    images = (0.5 * ramp + 0.3 * random.normal(size=ramp.shape)).clip(-1, 1).astype(np.float32)
    other = (images + noise * random.normal(size=ramp.shape)).clip(-1, 1).astype(np.float32)
    return images, other


@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
def test_psnr_and_ssim_agree_with_scikit_image(noise):
    images, other = pairs(noise)
    for i, (a, b) in enumerate(zip(images, other, strict=True)):
        expected = peak_signal_noise_ratio(a, b, data_range=2)
        assert psnr(jnp.asarray(images), jnp.asarray(other))[i] == pytest.approx(expected, abs=1e-4)
        expected = structural_similarity(a, b, data_range=2, channel_axis=-1)
        assert ssim(jnp.asarray(images), jnp.asarray(other))[i] == pytest.approx(expected, abs=1e-4)


def test_ssim_of_flat_and_of_saturated_pictures_stays_exact():
    flat = np.full((1, 32, 32, 3), 0.999, np.float32)
    noisy = (flat + 0.001 * np.random.default_rng(0).normal(size=flat.shape)).astype(np.float32)
    expected = structural_similarity(
        flat[0].astype(np.float64), noisy[0].astype(np.float64), data_range=2, channel_axis=-1
    )
    assert ssim(jnp.asarray(flat), jnp.asarray(noisy))[0] == pytest.approx(expected, abs=1e-4)


def test_equal_images_score_infinity_and_one():
    images = jnp.asarray(pairs(0)[0])
    assert bool(jnp.all(jnp.isinf(psnr(images, images))))
    np.testing.assert_allclose(ssim(images, images), 1, atol=1e-6)


def test_a_video_scores_as_all_its_frames():
    random = np.random.default_rng(0)
    videos = random.uniform(-1, 1, (2, 3, 9, 8, 3)).astype(np.float32)  # [b, t, h, w, c]
    others = np.clip(videos + random.normal(0, 0.2, videos.shape), -1, 1).astype(np.float32)
    frames = jnp.asarray(videos.reshape(6, 9, 8, 3)), jnp.asarray(others.reshape(6, 9, 8, 3))
    np.testing.assert_allclose(
        ssim(jnp.asarray(videos), jnp.asarray(others)),
        np.asarray(ssim(*frames)).reshape(2, 3).mean(axis=1),
        rtol=1e-6,
    )
    error = ((videos - others) ** 2).mean(axis=(1, 2, 3, 4))
    want = 10 * np.log10(4 / error)
    np.testing.assert_allclose(psnr(jnp.asarray(videos), jnp.asarray(others)), want, rtol=1e-5)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 7 x 7"):
        ssim(jnp.zeros((1, 6, 9, 3)), jnp.zeros((1, 6, 9, 3)))


def test_bytes_span_minus_one_to_one():
    ends = to_unit_range(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1))
    assert ends.ravel().tolist() == [-1, 1]
