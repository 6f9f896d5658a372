"""Figures are written, of the size asked for, and disturb nothing."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from toklip_jax.evaluation.figures import reconstruction_grid, smooth

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_reconstructions_stand_below_their_originals(tmp_path):
    red = np.zeros((3, 8, 8, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    blue = np.zeros((3, 8, 8, 3), np.float32) + np.array([-1, -1, 1], np.float32)
    path = tmp_path / "new" / "grid.png"
    reconstruction_grid(red, blue, path, columns=2, notes=["1 dB", "2 dB", "3 dB"])
    picture = pixels(path).reshape(-1, pixels(path).shape[1], 3)
    is_red = (picture == [255, 0, 0]).all(-1)
    is_blue = (picture == [0, 0, 255]).all(-1)
    assert is_red.sum() == pytest.approx(is_blue.sum(), rel=0.05)
    column = is_red[:, is_red.any(0)][:, 10], is_blue[:, is_blue.any(0)][:, 10]
    starts = [np.flatnonzero(np.diff(marks.astype(int)) == 1) for marks in column]
    assert len(starts[0]) == len(starts[1]) == 2
    assert (starts[0] < starts[1]).all()
    assert starts[1][0] < starts[0][1]


def test_the_licence_is_written_below(tmp_path):
    def bottom(attribution):
        reconstruction_grid(IMAGES, IMAGES, tmp_path / "a.png", attribution=attribution)
        return pixels(tmp_path / "a.png")[-30:]

    assert (bottom("") == 255).all()
    assert (bottom("Twemoji, CC BY 4.0") < 200).any()


def test_curves_are_smoothed_over_their_neighbourhood_and_may_be_short():
    values = np.arange(80.0)  # so many that the window is two to each side
    np.testing.assert_allclose(smooth(values)[2:-2], values[2:-2])
    np.testing.assert_allclose(smooth(values)[[0, -1]], [1, 78])
    np.testing.assert_array_equal(smooth(values[:9]), values[:9])
    assert smooth(np.zeros(0)).shape == (0,)


def test_figures_neither_import_matplotlib_early_nor_choose_a_backend(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "import toklip_jax.evaluation.figures as figures\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "images = np.zeros((1, 4, 4, 3), np.uint8)\n"
        f"figures.reconstruction_grid(images, images, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
