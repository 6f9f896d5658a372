"""Figures are written, of the size asked for, and disturb nothing."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from toklip_jax.evaluation.figures import (
    ImageQuery,
    TextQuery,
    loss_curves,
    reconstruction_grid,
    retrieval_examples,
)

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


def test_the_right_answer_is_marked_and_the_licence_is_written(tmp_path):
    def draw(name, right, attribution=""):
        image_queries = [ImageQuery(IMAGES[0], ["a", "b", "c"], [right, False, False])]
        text_queries = [TextQuery("a", IMAGES[:3], [right, False, False])]
        path = tmp_path / name
        retrieval_examples(image_queries, text_queries, path, attribution=attribution)
        return pixels(path)

    green = [
        (draw(f"{right}.png", right) == [26, 127, 55]).all(-1).sum() for right in (True, False)
    ]
    assert green[0] > 500
    assert green[1] == 0
    bottom = [draw("a.png", True, text)[-30:] for text in ("", "Twemoji, CC BY 4.0")]
    assert (bottom[0] == 255).all()
    assert (bottom[1] < 200).any()


def test_a_panel_for_every_curve(tmp_path):
    series = {f"loss {i}": (range(50), np.linspace(1, 0, 50) * 10**i) for i in range(4)}
    loss_curves(series, tmp_path / "loss.png")
    height, width, _ = pixels(tmp_path / "loss.png").shape
    assert width == 3 * 3.4 * 150
    assert height == round((2 * 2.3 + 0.6) * 150)


def test_curves_may_be_short_or_have_gaps(tmp_path):
    loss_curves(
        {"one": ([0], [1.0]), "none": ([], []), "nan": ([0, 1], [1.0, np.nan])}, tmp_path / "x.png"
    )
    assert (tmp_path / "x.png").stat().st_size > 0


def test_figures_neither_import_matplotlib_early_nor_choose_a_backend(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "import toklip_jax.evaluation.figures as figures\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        f"figures.loss_curves({{'a': ([0, 1], [1, 2])}}, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
