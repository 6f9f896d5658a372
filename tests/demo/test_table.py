"""The demo's table on a tiny world: nine names in three groups, one colour each."""

import math

import numpy as np
import pytest

from toklip_jax.demo.baselines import chance_recall, neighbour_scores
from toklip_jax.demo.names import (
    EmojiTask,
    Pictures,
    chance_row,
    emoji_rows,
    largest_group_row,
    pixel_neighbour_row,
)
from toklip_jax.evaluation.tables import figure_label, results_table
from toklip_jax.evaluation.zeroshot import build_classifier
from toklip_jax.metrics import Estimate
from toklip_jax.ops.pixels import to_unit_range

NAN = Estimate(math.nan)
NAMES = [f"name {i}" for i in range(9)]
GROUPS = ["group 0", "group 1", "group 2"]
COLOURS = np.random.default_rng(0).integers(0, 256, (9, 3))


def style(brightness, names=range(9)):
    ids = np.array(names)
    images = np.clip(COLOURS[ids] + brightness, 0, 255).astype(np.uint8)
    images = np.broadcast_to(images[:, None, None], (len(ids), 16, 16, 3))
    return Pictures(images.copy(), ids, ids // 3)


def joined(*parts):
    return Pictures(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.name_ids for part in parts]),
        np.concatenate([part.group_ids for part in parts]),
    )


@pytest.fixture
def task():
    is_unseen = np.arange(9) % 3 == 2
    return EmojiTask(NAMES, GROUPS, is_unseen, style(0), joined(style(5), style(-5, range(8))))


def tokenize(texts):
    # [kind, number]: "name 3", "an emoji of name 3", "group 1"
    return np.array([["group" in text, int(text.split()[-1])] for text in texts], np.int32)


def encode_text(ids):
    features = np.zeros((len(ids), 9), np.float32)
    for row, (is_group, number) in zip(features, ids, strict=True):
        row[number * 3 : number * 3 + 3] = 1 if is_group else 0
        row[number] += 0 if is_group else 1
    return features


def perfect(images):
    mean = (images.mean(axis=(1, 2)) + 1) * 127.5
    nearest = np.argmin(((mean[:, None] - COLOURS) ** 2).sum(-1), axis=1)
    return np.eye(9, dtype=np.float32)[nearest]


def constant(images):
    return np.ones((len(images), 9), np.float32)


def rows_of(task, **encoders):
    names = build_classifier(encode_text, NAMES, ("{}", "an emoji of {}"), tokenize).T
    groups = build_classifier(encode_text, GROUPS, ("{}",), tokenize)
    images = to_unit_range(task.held_out.images)
    features = {name: encoder(images) for name, encoder in encoders.items()}
    rows = emoji_rows(features, names, groups, task)
    rows += [pixel_neighbour_row(task), chance_row(task), largest_group_row(task)]
    return {row["model"]: row for row in rows}


def test_every_row_and_figure_of_the_table(task):
    by_model = rows_of(task, perfect=perfect, constant=constant)
    assert list(by_model) == [
        "perfect",
        "constant",
        "pixel neighbour, 16 px",
        "chance",
        "largest group",
    ]
    figures = {name: cell.value for name, cell in by_model["perfect"].items() if name != "model"}
    assert len(figures) == 10
    assert set(figures.values()) == {1.0}
    # All scores tie, and the lowest index wins: one of 6 seen and one of 3 unseen names.
    assert by_model["constant"]["image_to_text_r1"] == Estimate(1 / 6, math.sqrt(5 / 36 / 6))
    assert by_model["constant"]["unseen_text_to_image_r1"].value == pytest.approx(1 / 3)
    assert by_model["constant"]["group_top1"].value == pytest.approx(1 / 3)
    assert by_model["chance"]["image_to_text_r5"].value == pytest.approx(5 / 6)
    assert by_model["chance"]["unseen_image_to_text_r5"].value == 1.0
    assert by_model["largest group"]["group_top1"].value == pytest.approx(1 / 3)
    assert by_model["pixel neighbour, 16 px"]["image_to_text_r1"].value == 1.0


def test_pixel_neighbours_name_what_looks_alike(task):
    swapped = task.references.name_ids.copy()
    swapped[task.references.name_ids == 0] = 1
    swapped[task.references.name_ids == 1] = 0
    references = Pictures(task.references.images, swapped, task.references.group_ids)
    row = pixel_neighbour_row(EmojiTask(NAMES, GROUPS, task.is_unseen, task.held_out, references))
    assert row["image_to_text_r1"].value == pytest.approx(4 / 6)
    assert row["group_top1"].value == 1.0


def test_a_label_without_references_is_never_nearest():
    scores = neighbour_scores(np.eye(2), np.eye(2), np.array([0, 2]), 3)
    np.testing.assert_allclose(scores, [[0, -np.inf, -2], [-2, -np.inf, 0]], atol=1e-6)


def test_chance_is_the_mean_of_random_orders():
    random = np.random.default_rng(0)
    positives = np.array([1, 2, 3])
    hits = [[random.permutation(8)[:k].min() for k in positives] for _ in range(20000)]
    expected = np.mean(np.array(hits) < 2)
    assert chance_recall(8, positives, 2).value == pytest.approx(expected, abs=0.01)


def test_the_table_prints_errors_and_leaves_gaps():
    rows = [
        {"model": "a", "image_to_text_r1": Estimate(0.51234, 0.0123), "codes": 12},
        {
            "model": "much longer",
            "psnr": Estimate(21.987, 0.06),
            "image_to_text_r1": Estimate(math.nan),
        },
    ]
    assert results_table(rows) == (
        "| model       | image→text R@1 | codes |     PSNR, dB |\n"
        "| ----------- | -------------: | ----: | -----------: |\n"
        "| a           |  0.512 ± 0.012 |    12 |            - |\n"
        "| much longer |              - |     - | 21.99 ± 0.06 |\n"
    )
    assert results_table(rows, ["model"]).count("\n") == 4


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("unseen_text_to_image_r10", "unseen text→image R@10"),
        ("reference_text_to_image_r5", "reference text→image R@5"),
        ("group_top1", "group top-1"),
        ("first_25", "first 25 %"),
        ("code_usage", "codes used"),
        ("linear_probe", "linear probe"),
        ("model", "model"),
    ],
)
def test_figures_have_names_for_people(name, label):
    assert figure_label(name) == label
