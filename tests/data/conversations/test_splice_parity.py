"""Rows and batches against LLaVA's replacement of placeholders, recorded."""

import json

import numpy as np
import pytest

from toklip_jax.data.conversations import (
    IMAGE_ID,
    Piece,
    batch_rows,
    pack_rows,
    place_images,
    tokenize_pieces,
    truncate,
)

TOKENS = 5  # of an image in the recordings
PAD_ID = 0


@pytest.fixture(scope="module")
def cases(golden):
    found = json.loads(golden("multimodal_splice/cases.json").read_text())
    return {case["tag"]: case for case in found["cases"]}


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden("multimodal_splice/rows.npz")) as found:
        return dict(found)


def rows_of(tag, case, arrays):
    """The recorded rows without padding; LLaVA counts an image for a row without one too."""
    rows, first = [], 0
    recorded = (arrays[f"{tag}_{name}"] for name in ("ids", "mask", "labels"))
    for ids, mask, labels in zip(*recorded, strict=True):
        number = int((ids[mask] == IMAGE_ID).sum())
        images = range(first, first + number)
        row = place_images(ids[mask], labels[mask], images, TOKENS, PAD_ID)
        rows.append(truncate(row, case["max_length"], "cut") if case["max_length"] else row)
        first += max(number, 1)
    assert first == case["n_images"]
    return rows


TAGS = "right left two_images text_row_in_the_middle truncated positions_given no_mask_no_labels"


@pytest.mark.parametrize("tag", TAGS.split())
def test_a_batch_is_llavas(tag, cases, arrays):
    assert set(cases) == set(TAGS.split())
    case = cases[tag]
    length = case["out_shape"][1]
    rows = rows_of(tag, case, arrays)
    batch = batch_rows(rows, length, PAD_ID, max_images=6, side=case["output_padding"])
    mask, labels = batch["segment_ids"] > 0, batch["labels"]
    if case["returns"]["attention_mask"]:
        np.testing.assert_array_equal(mask, arrays[f"{tag}_out_mask"])
    else:
        assert mask.all()
    if case["returns"]["labels"]:
        np.testing.assert_array_equal(labels, arrays[f"{tag}_out_labels"])
    if case["returns"]["position_ids"]:
        np.testing.assert_array_equal(batch["positions"], arrays[f"{tag}_out_positions"])
    places = batch["image_places"]
    numbers = np.array([*batch["images"], -1])  # the recording's feature of each image
    found = np.where(places < 0, -1, numbers[places // TOKENS] * TOKENS + places % TOKENS)
    np.testing.assert_array_equal(found, arrays[f"{tag}_out_places"])
    is_text = mask & (places < 0)
    np.testing.assert_array_equal(np.where(is_text, batch["ids"], -1), arrays[f"{tag}_out_ids"])
    assert np.all(batch["ids"][~is_text] == PAD_ID)
    assert batch["image_mask"].sum() == len(batch["images"])


@pytest.mark.parametrize("tag", ["right", "two_images", "text_row_in_the_middle"])
def test_packed_rows_are_the_batched_ones_side_by_side(tag, cases, arrays):
    rows = rows_of(tag, cases[tag], arrays)
    plain = batch_rows(rows, 20, PAD_ID)
    packed = pack_rows(rows, 34, PAD_ID, num_lines=3)
    assert packed["ids"].shape == (3, 34)
    assert packed["segment_ids"].max() == 2  # so that at least one line has two
    seen = []
    for line in range(3):
        for segment in range(1, packed["segment_ids"][line].max() + 1):
            inside = packed["segment_ids"][line] == segment
            places = packed["image_places"][line][inside]
            images = [packed["images"][i] for i in np.unique(places[places >= 0] // TOKENS)]
            first = packed["images"].index(images[0]) if images else 0
            (number,) = [i for i, row in enumerate(rows) if list(row.images) == images]
            seen.append(number)
            kept = plain["segment_ids"][number] > 0
            for name in ("ids", "labels", "positions"):
                np.testing.assert_array_equal(packed[name][line][inside], plain[name][number][kept])
            own = rows[number].image_places
            np.testing.assert_array_equal(places, np.where(own < 0, -1, own + first * TOKENS))
    assert sorted(seen) == list(range(len(rows)))


class OneIdACharacter:
    """The recordings' toy tokenizer."""

    pad_id, fingerprint = 0, "toy"

    def __init__(self, bos_id):
        self.bos_id = bos_id

    def encode(self, text):
        return [100 + ord(c) % 50 for c in text], [(i, i + 1) for i in range(len(text))]


def test_text_is_split_at_images_as_llava_does(golden):
    cases = json.loads(golden("multimodal_splice/cases.json").read_text())
    assert len(cases["tokenizer_image_token"]) == 16
    for case in cases["tokenizer_image_token"]:
        tokenizer = OneIdACharacter(1 if case["tokenizer_adds_bos"] else None)
        ids, labels = tokenize_pieces([Piece(case["prompt"])], tokenizer)
        assert ids.tolist() == case["ids"], case
        assert labels.dtype == np.int32
        assert np.all(labels == -100)
