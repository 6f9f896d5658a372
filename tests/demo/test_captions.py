import numpy as np
import pytest

from toklip_jax.data.text import TextTokenizer, canonicalize, train_tokenizer
from toklip_jax.demo.artwork import Concept
from toklip_jax.demo.captions import all_captions, caption_table, draw_caption

APPLE = Concept(
    ("1F34E",), "red apple", "food and drink", "food fruit", ("fruit", "mac", "school", "tree"), 0
)
FLAG = Concept(("1F1EF", "1F1F5"), "flag: Japan", "flags", "country flag", (), 1)


@pytest.fixture
def tokenizer():
    return TextTokenizer(train_tokenizer(all_captions([APPLE, FLAG]), 256), 24)


def test_thirty_percent_of_captions_are_bare_and_the_rest_name_it():
    rng = np.random.default_rng(0)
    captions = [draw_caption(APPLE, rng) for _ in range(4000)]
    bare = [c for c in captions if c in ("food and drink", "food fruit")]
    assert 0.27 < len(bare) / len(captions) < 0.33
    assert 0.4 < bare.count("food fruit") / len(bare) < 0.6
    named = [c for c in captions if c not in bare]
    assert all("red apple" in c for c in named)
    for exact in ("red apple", "an emoji of red apple", "food fruit red apple"):
        assert 0.2 < named.count(exact) / len(named) < 0.3
    lists = {c for c in named if "," in c}
    assert len(lists) == 4 * 3 * 2
    assert all(len(set(c.split(", "))) == 4 for c in lists)


def test_a_concept_without_keywords_still_has_captions():
    rng = np.random.default_rng(0)
    assert {draw_caption(FLAG, rng) for _ in range(200)} == {
        "flags", "country flag", "flag: Japan", "an emoji of flag: Japan",
        "country flag flag: Japan",
    }  # fmt: skip


def test_the_tokenizer_has_seen_every_words_characters():
    texts = all_captions([APPLE, FLAG])
    words = {word for text in texts for word in canonicalize(text).split()}
    rng = np.random.default_rng(1)
    for concept in (APPLE, FLAG):
        for _ in range(50):
            assert set(canonicalize(draw_caption(concept, rng)).split()) <= words


def test_the_caption_table_holds_draws_of_each_concept(tokenizer):
    table = caption_table([APPLE, FLAG], tokenizer, 16, seed=3)
    assert table.shape == (2, 16, 24)
    np.testing.assert_array_equal(table, caption_table([APPLE, FLAG], tokenizer, 16, seed=3))
    rng = np.random.default_rng(3)
    expected = [draw_caption(concept, rng) for concept in (APPLE, FLAG) for _ in range(16)]
    np.testing.assert_array_equal(table.reshape(32, 24), tokenizer(expected))
