"""Reconstruction figures, and the k-means baseline as a tokenizer."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from toklip_jax.evaluation.baselines import fit_patch_codebook
from toklip_jax.evaluation.batches import map_batches, padded_batches
from toklip_jax.evaluation.reconstruction import evaluate_reconstruction

CODES = 8


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (10, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8)  # [10, 16, 16, 3]


@pytest.fixture(scope="module")
def codebook(images):
    return fit_patch_codebook(images, patch_size=8, codebook_size=CODES, steps=5)


def test_figures_equal_scikit_image_over_single_images(images, codebook):
    result = evaluate_reconstruction(
        codebook.tokenize, codebook.detokenize, images, batch_size=4, codebook_sizes=(CODES,)
    )
    originals = images.astype(np.float32) / 127.5 - 1
    restored = np.asarray(codebook.detokenize(codebook.tokenize(originals))).clip(-1, 1)
    pairs = list(zip(originals, restored, strict=True))
    ratios = [peak_signal_noise_ratio(a, b, data_range=2) for a, b in pairs]
    alike = [structural_similarity(a, b, data_range=2, channel_axis=-1) for a, b in pairs]
    assert result.psnr.value == pytest.approx(np.mean(ratios), abs=1e-4)
    assert result.psnr.error == pytest.approx(np.std(ratios, ddof=1) / np.sqrt(10), rel=1e-3)
    assert result.ssim.value == pytest.approx(np.mean(alike), abs=1e-4)
    used = len(np.unique(codebook.tokenize(originals)))
    assert result.code_usage == used / CODES


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_batch_size_changes_no_figure(images, codebook, batch_size):
    run = codebook.tokenize, codebook.detokenize, images
    result, whole = (
        evaluate_reconstruction(*run, batch_size=size, codebook_sizes=(CODES,))
        for size in (batch_size, 10)
    )
    assert result.psnr.value == pytest.approx(whole.psnr.value, rel=1e-6)
    assert result.ssim.value == pytest.approx(whole.ssim.value, rel=1e-5)
    assert result[2:] == whole[2:]


def test_images_out_of_range_are_clipped_before_they_are_compared(images):
    white = np.full((2, 16, 16, 3), 255, np.uint8)
    result = evaluate_reconstruction(
        lambda x: np.zeros((len(x), 1), np.int32),
        lambda ids: np.full((2, 16, 16, 3), 1.5),
        white,
        batch_size=2,
        codebook_sizes=(1,),
    )
    assert result.psnr.value == np.inf
    assert result.ssim.value == pytest.approx(1)


def test_patches_return_to_their_places():
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    exact = fit_patch_codebook(images, patch_size=8, codebook_size=12, steps=3)  # 12 patches
    np.testing.assert_allclose(exact.detokenize(exact.tokenize(images)), images, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "grid"), [((24, 16), (8, 4), (3, 4)), ((4, 8, 6), (2, 4, 3), (2, 2, 2))]
)
def test_patches_of_rectangles_and_videos_return_to_their_places(size, patch, grid):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    exact = fit_patch_codebook(images, patch, 2 * int(np.prod(grid)), steps=3)
    assert exact.grid == grid
    ids = exact.tokenize(images)
    assert ids.shape == (2, np.prod(grid))
    np.testing.assert_allclose(exact.detokenize(ids), images, atol=1e-6)
    first = exact.codebook[ids[0, 1]].reshape(*patch, 3)  # the place right of the first
    corner = tuple(slice(0, p) for p in patch[:-1])
    np.testing.assert_allclose(first, images[0][(*corner, slice(patch[-1], 2 * patch[-1]))])


def test_patches_that_do_not_fit_are_refused(images):
    with pytest.raises(ValueError, match=r"patches that divide images of \(16, 16\), got \(5, 8\)"):
        fit_patch_codebook(images, (5, 8), 4)
    with pytest.raises(ValueError, match="at least 99 patches to fit as many centres, got 40"):
        fit_patch_codebook(images, 8, 99)


def test_several_ids_a_place_are_scored(images):
    """Two ids that together number the distinct images: a lossless tokenizer."""
    flat = images.reshape(10, -1)

    def tokenize(batch):
        batch = np.rint((batch + 1) * 127.5).reshape(len(batch), 1, -1)
        number = np.argmax((batch == flat).all(axis=-1), axis=1)
        return np.stack([number // 5, number % 5], axis=-1)[:, None].astype(np.int32)  # [b, 1, 2]

    def detokenize(ids):
        return images[5 * ids[:, 0, 0] + ids[:, 0, 1]] / np.float32(127.5) - 1

    result = evaluate_reconstruction(
        tokenize, detokenize, images, batch_size=4, codebook_sizes=(2, 10)
    )
    assert result.ssim.value == pytest.approx(1)
    assert result.code_usage == 7 / 12
    assert result.perplexity == pytest.approx(np.sqrt(2 * 5))


def test_unused_centres_move_to_points_that_are_far_from_theirs():
    random = np.random.default_rng(0)
    blank = np.ones((30, 16, 16, 3), np.float32)  # the start is nearly all blank patches
    blank[:8, :8, :8] = random.uniform(-1, 1, (8, 8, 8, 3))
    fitted = fit_patch_codebook(blank, patch_size=8, codebook_size=9, steps=4)
    assert len(np.unique(fitted.tokenize(blank))) == 9


def test_the_last_batch_is_filled_up_and_masked():
    batches = list(padded_batches((np.arange(5),), 2))
    assert [batch[0].tolist() for batch, _ in batches] == [[0, 1], [2, 3], [4, 4]]
    assert [mask.tolist() for _, mask in batches] == [[True, True], [True, True], [True, False]]
    assert map_batches(lambda x: x * 2, (np.arange(5),), 2).tolist() == [0, 2, 4, 6, 8]


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length above 0"):
        map_batches(lambda x, y: x, (np.arange(3), np.arange(2)), 2)
