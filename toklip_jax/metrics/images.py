"""The similarity of two images: PSNR and SSIM, one number per image, as scikit-image has them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.errors import UserError

DATA_RANGE = 2.0  # images span [-1, 1]
# Wang et al. 2004 (the constants), and scikit-image's default uniform 7 x 7 window.
SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03


def psnr(
    images: Float[Array, "b *size c"], reconstructions: Float[Array, "b *size c"]
) -> Float[Array, " b"]:
    """Returns 10 log10(4 / mean squared error) of each image or video, dB; inf for equal ones.

    Args:
        images: RGB in [-1, 1].
        reconstructions: the same; clip them first, as nothing is clipped here.
    """
    difference = images.astype(jnp.float32) - reconstructions.astype(jnp.float32)
    axes = tuple(range(1, images.ndim))
    return 10 * jnp.log10(DATA_RANGE**2 / jnp.mean(difference**2, axis=axes))


def ssim(
    images: Float[Array, "b *size c"], reconstructions: Float[Array, "b *size c"]
) -> Float[Array, " b"]:
    """Returns each image's mean structural similarity, at most 1.

    The mean over channels and over all 7 x 7 windows inside the image, with sample covariances:
    `skimage.metrics.structural_similarity(..., channel_axis=-1, data_range=2)`. Of a video
    [b, t, h, w, c] it is the mean over the frames.

    Args:
        images: RGB in [-1, 1].
        reconstructions: the same.

    Raises:
        ValueError: the images are smaller than the window.
    """
    if images.ndim == 5:
        frames = (x.reshape(-1, *x.shape[2:]) for x in (images, reconstructions))
        return jnp.mean(ssim(*frames).reshape(images.shape[:2]), axis=1)
    if min(images.shape[1:3]) < SSIM_WINDOW:
        raise UserError(
            f"expected images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels for SSIM, got "
            f"{images.shape}: enlarge them"
        )
    x, y = images.astype(jnp.float32), reconstructions.astype(jnp.float32)
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # n / (n - 1)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = sample * (_window_mean(x * x) - mean_x**2)
    var_y = sample * (_window_mean(y * y) - mean_y**2)
    cov = sample * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (SSIM_K1 * DATA_RANGE) ** 2, (SSIM_K2 * DATA_RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _window_mean(x):
    window = (1, SSIM_WINDOW, SSIM_WINDOW, 1)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), "VALID")
    return total / SSIM_WINDOW**2
