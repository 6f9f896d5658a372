"""The demo's table on a tiny world: nine names in three groups, one colour each."""

import math

import numpy as np
import pytest

from toklip_jax.evaluation.baselines import chance_recall, neighbour_scores
from toklip_jax.evaluation.emoji import (
    EmojiTask,
    Pictures,
    encode_images,
    evaluate_emoji,
    pixel_neighbour_row,
    retrieval_cases,
)
from toklip_jax.evaluation.tables import results_table
from toklip_jax.metrics import Estimate

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


def test_every_row_and_figure_of_the_table(task):
    rows = evaluate_emoji(
        {"perfect": perfect, "constant": constant},
        encode_text,
        tokenize,
        task,
        probes={"colours": lambda images: images.mean(axis=(1, 2))},
        batch_size=4,
    )
    by_model = {row["model"]: row for row in rows}
    assert list(by_model) == [
        "perfect",
        "constant",
        "colours, linear probe",
        "pixel neighbour, 16 px",
        "chance",
        "largest group",
    ]
    figures = {name: cell.value for name, cell in by_model["perfect"].items() if name != "model"}
    assert len(figures) == 10
    assert set(figures.values()) == {1.0}
    # All scores tie, and the lowest index wins: one of 6 seen and one of 3 unseen names.
    assert by_model["constant"]["I→T R@1"] == Estimate(1 / 6, math.sqrt(5 / 36 / 6))
    assert by_model["constant"]["unseen T→I R@1"].value == pytest.approx(1 / 3)
    assert by_model["constant"]["groups top-1"].value == pytest.approx(1 / 3)
    assert by_model["chance"]["I→T R@5"].value == pytest.approx(5 / 6)
    assert by_model["chance"]["unseen I→T R@5"].value == 1.0
    assert by_model["largest group"]["groups top-1"].value == pytest.approx(1 / 3)
    assert by_model["pixel neighbour, 16 px"]["I→T R@1"].value == 1.0


def test_probes_train_on_seen_names_only(task):
    batches = []

    def encoder(images):
        batches.append(images)
        return images.mean(axis=(1, 2))

    evaluate_emoji({}, encode_text, tokenize, task, probes={"colours": encoder}, batch_size=99)
    assert [len(batch) for batch in batches] == [12, 9]


def test_pixel_neighbours_name_what_looks_alike(task):
    swapped = task.references.name_ids.copy()
    swapped[task.references.name_ids == 0] = 1
    swapped[task.references.name_ids == 1] = 0
    references = Pictures(task.references.images, swapped, task.references.group_ids)
    row = pixel_neighbour_row(EmojiTask(NAMES, GROUPS, task.is_unseen, task.held_out, references))
    assert row["I→T R@1"].value == pytest.approx(4 / 6)
    assert row["groups top-1"].value == 1.0


def test_a_label_without_references_is_never_nearest():
    scores = neighbour_scores(np.eye(2), np.eye(2), np.array([0, 2]), 3)
    np.testing.assert_allclose(scores, [[0, -np.inf, -2], [-2, -np.inf, 0]], atol=1e-6)


def test_chance_is_the_mean_of_random_orders():
    random = np.random.default_rng(0)
    positives = np.array([1, 2, 3])
    hits = [[random.permutation(8)[:k].min() for k in positives] for _ in range(20000)]
    expected = np.mean(np.array(hits) < 2)
    assert chance_recall(8, positives, 2).value == pytest.approx(expected, abs=0.01)


def test_examples_mark_what_is_right(task):
    features = encode_images(perfect, task.held_out.images, 4)
    image_queries, text_queries = retrieval_cases(features, np.eye(9)[::-1], task, [1, 4], depth=3)
    assert image_queries[1].names[0] == "name 4"
    assert image_queries[1].is_right == [True, False, False]
    assert image_queries[0].names[0] == "name 7"  # the features of the texts were reversed
    assert not image_queries[0].is_right[0]
    assert text_queries[0].text == "name 1"
    assert np.array_equal(text_queries[0].images[0], task.held_out.images[7])


def test_the_table_prints_errors_and_leaves_gaps():
    rows = [
        {"model": "a", "R@1": Estimate(0.51234, 0.0123), "codes": 12},
        {"model": "much longer", "PSNR": Estimate(21.987, 0.06), "R@1": Estimate(math.nan)},
    ]
    assert results_table(rows) == (
        "| model       |           R@1 | codes |         PSNR |\n"
        "| ----------- | ------------: | ----: | -----------: |\n"
        "| a           | 0.512 ± 0.012 |    12 |            - |\n"
        "| much longer |             - |     - | 21.99 ± 0.06 |\n"
    )
    assert results_table(rows, ["model"]).count("\n") == 4
