"""Questions about emoji: what is asked, what is right, and how they become lines."""

import numpy as np
import pytest

from toklip_jax.data.conversations import IMAGE
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.demo.emoji import named_split
from toklip_jax.demo.questions import (
    GROUP,
    IS_THERE,
    KINDS,
    NO,
    WHAT,
    YES,
    EmojiConversations,
    held_out_questions,
    main_colour,
    open_questions,
)


@pytest.fixture(scope="module")
def split():
    return named_split("test", 48)


def test_the_main_colour_is_of_what_is_drawn_and_not_of_the_ground():
    image = np.full((48, 48, 3), 255, np.uint8)
    assert main_colour(image) == "white"
    image[:10, :10] = (60, 130, 220)
    image[20:25, 20:25] = (220, 40, 40)
    assert main_colour(image) == "blue"


def test_answers_are_those_of_the_picture(split):
    pictures, asked = held_out_questions(split, "name")
    index = 7
    concept = pictures.concepts[pictures.concept_ids[index]]
    assert asked[index] == [(WHAT, concept.name)]
    assert held_out_questions(split, "group")[1][index] == [(GROUP, concept.group)]


def test_yes_and_no_are_balanced_and_right(split):
    pictures, asked = held_out_questions(split, "yes or no")
    assert len(asked) == len(pictures)
    for index, pairs in enumerate(asked):
        own = pictures.concepts[pictures.concept_ids[index]].name
        assert [answer for _, answer in pairs] == [YES, NO]
        assert pairs[0][0] == IS_THERE.format(own)
        assert pairs[1][0] != IS_THERE.format(own)


def test_held_out_pictures_are_of_the_held_out_style_or_of_unseen_things(split):
    train = {
        (split.train.concept_ids[i], split.train.style_ids[i]) for i in range(len(split.train))
    }
    trained_concepts = {concept for concept, _ in train}
    for kind in KINDS:
        pictures, _ = held_out_questions(split, kind)
        shown = set(zip(pictures.concept_ids, pictures.style_ids, strict=True))
        assert not shown & train
        is_seen = [concept in trained_concepts for concept in pictures.concept_ids]
        assert not any(is_seen) if kind == "style" else all(is_seen)


def test_conversations_repeat_and_have_the_image_once(split):
    conversations = EmojiConversations(split.train, 3, 2, 0.5, seed=0)
    assert len(conversations) == 2 * len(split.train)
    drawn = 0
    for index in range(40):
        found = conversations[index]
        assert found == conversations[index]
        assert sum(turn.text.count(IMAGE) for turn in found.turns) == 1
        assert found.images == (index // 2,)
        drawn += found.turns[1].text == IMAGE
    assert 5 < drawn < 35
    assert EmojiConversations(split.train, 3, 2, 0.5, seed=1)[0] != conversations[0]


def test_a_line_trains_the_answers_alone(split, tmp_path):
    texts = [WHAT, GROUP, "which colour", "which style", "is there a", "yes no"]
    texts += [concept.name for concept in split.train.concepts[:300]]
    TextTokenizer(train_tokenizer(texts, 600), 16).save(tmp_path)
    source = open_questions(str(tmp_path), draws=1, turns=1, length=148)
    line = source[0]
    assert line["ids"].shape == line["labels"].shape == (148,)
    assert line["images"].shape == (1, 48, 48, 3)
    assert np.sum(line["image_places"] >= 0) == 64
    trained = line["labels"] >= 0
    assert 0 < trained.sum() < 60
    np.testing.assert_array_equal(line["labels"][trained], line["ids"][trained])
    assert not np.any(trained & (line["image_places"] >= 0))
