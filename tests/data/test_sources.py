import numpy as np
import pytest

from toklip_jax.data.sources import ArraySource, SourceConfig
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.demo import source as demo_source
from toklip_jax.demo.artwork import Concept
from toklip_jax.demo.captions import all_captions
from toklip_jax.demo.emoji import EmojiSet, split_emoji

CONCEPTS = tuple(
    Concept((f"{i:X}",), f"thing {i}", ("even", "odd")[i % 2], "sub", (), i) for i in range(5)
)


@pytest.fixture
def tokenizer():
    return TextTokenizer(train_tokenizer(all_captions(CONCEPTS), 64), 8)


@pytest.fixture
def _drawn(monkeypatch):
    rows = np.array([(c, s) for s in range(2) for c in range(5)], np.int32)
    pictures = EmojiSet(np.zeros((10, 4, 4, 3), np.uint8), *rows.T, CONCEPTS, ("A", "B"))
    split = split_emoji(pictures, ("A",), "B", num_unseen=1)
    monkeypatch.setattr(demo_source, "named_split", lambda name, size: split)


def test_synthetic_data_are_a_function_of_their_seed():
    one, same, other = (
        SourceConfig.from_plain({"kind": "synthetic", "seed": seed}).open() for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one[3]["images"], same[3]["images"])
    assert (one[3]["images"] != other[3]["images"]).any()
    assert one[0]["captions"].shape == (2, 8)
    assert len(one) == 64


@pytest.mark.usefixtures("_drawn")
def test_emoji_samples_carry_captions_of_their_own_concept(tokenizer):
    source = SourceConfig.from_plain({"kind": "emoji", "num_captions": 3}).open(tokenizer)
    assert len(source) == 4
    for i in range(4):
        sample = source[i]
        assert sample["captions"].shape == (3, 8)
        np.testing.assert_array_equal(sample["captions"], source.captions[sample["concept_ids"]])
    assert len(SourceConfig.from_plain({"kind": "emoji", "part": "test"}).open()) == 5
    assert set(SourceConfig.from_plain({"kind": "emoji"}).open()[0]) == {
        "images",
        "concept_ids",
        "labels",
    }


@pytest.mark.usefixtures("_drawn")
def test_emoji_samples_are_labelled_with_the_group_of_their_concept():
    source = SourceConfig.from_plain({"kind": "emoji", "part": "test"}).open()
    assert source.classes == ("even", "odd")
    for sample in (source[i] for i in range(len(source))):
        assert sample["labels"] == sample["concept_ids"] % 2
        assert sample["labels"].dtype == np.int32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "emojis"}, "got 'emojis': did you mean 'emoji'"),
        ({}, "got None"),
        ({"kind": "emoji", "sise": 48}, "got 'sise': did you mean 'size'"),
        ({"kind": "synthetic", "tokenizer": 1}, "got 'tokenizer'"),
    ],
)
def test_a_mistyped_config_names_its_nearest_neighbour(config, message):
    with pytest.raises(ValueError, match=message):
        SourceConfig.from_plain(config).open()


def test_an_unknown_split_or_part_is_refused():
    with pytest.raises(ValueError, match="split among"):
        SourceConfig.from_plain({"kind": "emoji", "split": "dev"}).open()
    with pytest.raises(ValueError, match="part among"):
        SourceConfig.from_plain({"kind": "emoji", "part": "tests"}).open()


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        ArraySource(a=np.zeros(2), b=np.zeros(3))
