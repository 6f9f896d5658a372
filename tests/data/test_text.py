import json
import logging
import types

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample
from toklip_jax.data.images.decode import token_ids
from toklip_jax.data.text import CLEANERS, TextTokenizer, train_tokenizer

CAPTIONS = ["an emoji of a red apple", "an emoji of a green apple", "a red car, a green car"]


@pytest.fixture
def tokenizer():
    return TextTokenizer(train_tokenizer(CAPTIONS, 64), context_length=8)


def gemma_like():
    """A tokenizer file with a bos and an eos of its own, in Gemma's order of special tokens."""
    vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4, "dog": 5, "cat": 6}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return tokenizer


@pytest.mark.parametrize("name", sorted(CLEANERS))
def test_cleaning_equals_the_recorded_strings(golden, name):
    rows = json.loads(golden("tokenizer/clean.json").read_text())["rows"]
    assert len(rows) == 36
    assert [CLEANERS[name](row["input"]) for row in rows] == [row[name] for row in rows]


def test_ids_are_ended_once_and_padded_whatever_the_file_adds():
    ids = TextTokenizer(gemma_like(), 5)(["A dog!", "", "a cat"])
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [[4, 5, 1, 0, 0], [1, 0, 0, 0, 0], [4, 6, 1, 0, 0]])


def stored(**settings):
    """A tokenizer file as other tools leave it, with settings of theirs."""
    tokenizer = gemma_like()
    if "padding" in settings:
        tokenizer.enable_padding(length=settings["padding"], pad_id=0, pad_token="<pad>")
    if "truncation" in settings:
        tokenizer.enable_truncation(settings["truncation"], direction="left")
    return tokenizer


@pytest.mark.parametrize(
    "settings",
    [{"padding": 5}, {"padding": 16}, {"truncation": 1}, {"padding": 3, "truncation": 3}],
)
def test_padding_and_truncation_that_a_file_stores_change_nothing(settings, tmp_path):
    texts, theirs = ["a dog", "a cat a dog a cat"], stored(**settings)
    plain = TextTokenizer(gemma_like(), 5)
    theirs.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (TextTokenizer(theirs, 5), TextTokenizer.load(tmp_path, 5)):
        np.testing.assert_array_equal(tokenizer(texts), plain(texts))
        assert tokenizer.fingerprint == plain.fingerprint
    assert (theirs.padding, theirs.truncation) != (None, None)  # the caller's own is left as it is


def test_dropout_that_a_file_stores_is_not_applied(tokenizer):
    theirs = train_tokenizer(CAPTIONS, 64)
    theirs.model.dropout = 0.9
    again = TextTokenizer(theirs, 8)
    for _ in range(5):
        np.testing.assert_array_equal(again(CAPTIONS), tokenizer(CAPTIONS))


def test_a_tokenizer_that_does_not_fit_a_tower_is_refused_with_both_numbers():
    tokenizer = TextTokenizer(gemma_like(), 5)
    tokenizer.expect_fits(tower(7, 5))
    with pytest.raises(ValueError, match=r"at most 6 ids.*got one of 7: name the tokenizer"):
        tokenizer.expect_fits(tower(6, 5))
    with pytest.raises(ValueError, match=r"of 8, the model's, got 5: set --config\.text"):
        tokenizer.expect_fits(tower(7, 8))
    gaps = gemma_like()
    gaps.add_tokens(["<new>"])
    vocab = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 900}, unk_token="<pad>"))
    assert TextTokenizer(gaps, 5).vocab_size == 8
    assert TextTokenizer(vocab, 5).vocab_size == 901


def tower(vocab_size, context_length):
    return types.SimpleNamespace(vocab_size=vocab_size, context_length=context_length)


def test_a_long_text_keeps_its_end_token_and_is_reported_once(caplog):
    tokenizer = TextTokenizer(gemma_like(), 3)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(tokenizer(["a dog"]), [[4, 5, 1]])
        assert not caplog.records
        np.testing.assert_array_equal(tokenizer(["a dog a cat"]), [[4, 5, 1]])
        tokenizer(["a dog a cat"])
    assert len(caplog.records) == 1
    assert "longer than 3 tokens" in caplog.text


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path)
    for name in (path, tmp_path, str(tmp_path)):
        loaded = TextTokenizer.load(name, 8)
        np.testing.assert_array_equal(loaded(CAPTIONS), tokenizer(CAPTIONS))
    np.testing.assert_array_equal(TextTokenizer.from_hub(tmp_path, 8)(CAPTIONS), loaded(CAPTIONS))


def test_training_puts_special_tokens_first_and_ignores_order():
    first, second = (train_tokenizer(texts, 64) for texts in (CAPTIONS, CAPTIONS[::-1] * 2))
    assert first.to_str() == second.to_str()
    assert [first.token_to_id(token) for token in ("<pad>", "<eos>", "<unk>")] == [0, 1, 2]
    assert first.decode(first.encode("a red apple").ids) == "a red apple"
    assert first.get_vocab_size() <= 64


def test_unknown_characters_are_unk_and_stay_in_the_vocabulary(tokenizer):
    ids = tokenizer(["a 狗"])
    assert 2 in ids
    assert ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: TextTokenizer.load(path / "none.json", 8), FileNotFoundError, "no file"),
        (lambda path: TextTokenizer.load(path, 8), FileNotFoundError, "tokenizer.json"),
        (lambda path: TextTokenizer.load(path / "x.json", 8), ValueError, "could not read"),
        (lambda path: TextTokenizer(Tokenizer(models.BPE()), 8), ValueError, "<pad>"),
        (lambda path: TextTokenizer(gemma_like(), 8, "upper"), ValueError, "canonicalize"),
        (lambda path: TextTokenizer(gemma_like(), 0), ValueError, "context_length"),
        (lambda path: TextTokenizer(gemma_like(), 8)("a dog"), ValueError, "pass \\['a dog'\\]"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, make, error, message):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(error, match=message) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hub_that_fails_names_the_local_way(monkeypatch):
    import huggingface_hub

    def fail(*args):
        raise OSError("no network\nlong trace")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(FileNotFoundError, match="no network: pass the path of a local"):
        TextTokenizer.load("owner/model", 8)


def test_a_home_directory_in_a_tokenizers_path_is_expanded(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tokenizer.save(tmp_path / "tokenizer.json")
    for name in ("~/tokenizer.json", "~"):
        assert TextTokenizer.load(name, 8).fingerprint == tokenizer.fingerprint


def test_ids_of_nothing_are_told_from_those_of_a_text(tokenizer):
    ids = tokenizer(["...", "one"])
    assert [tokenizer.is_empty(row) for row in ids] == [True, False]


WITHOUT_UNKNOWN = {
    "words": models.WordLevel({"<pad>": 0, "<eos>": 1}, "<unk>"),
    "unigrams": models.Unigram([("<pad>", 0.0), ("<eos>", 0.0)], None, False),
    "pairs": models.BPE({"<pad>": 0, "<eos>": 1}, [], unk_token="<unk>"),
}


@pytest.mark.parametrize("model", WITHOUT_UNKNOWN.values(), ids=WITHOUT_UNKNOWN)
def test_a_text_that_a_tokenizer_cannot_encode_is_the_users(model):
    with pytest.raises(UserError, match="texts that the text tokenizer can encode, got others"):
        TextTokenizer(Tokenizer(model), 8)(["dog"])


def test_a_panic_of_the_library_names_the_file(tmp_path, capfd):
    """What its Rust code raises is no Exception."""
    content = json.loads(gemma_like().to_str())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"could not read .*x\.json \(Precompiled"):
        TextTokenizer.load(tmp_path / "x.json", 8)


def test_a_file_without_the_tokens_is_named(tmp_path):
    Tokenizer(models.BPE()).save(f"{tmp_path}/x.json")
    with pytest.raises(UserError, match=r"the token <pad>.* \(in .*x\.json\)"):
        TextTokenizer.load(tmp_path / "x.json", 8)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(UserError, match=r"at most 67108864 bytes, got .*x\.json"):
        TextTokenizer.load(tmp_path / "x.json", 8)


def test_a_caption_that_a_tokenizer_cannot_encode_is_a_bad_sample():
    tokenizer = TextTokenizer(Tokenizer(WITHOUT_UNKNOWN["words"]), 8)
    with pytest.raises(BadSample, match="a caption that the tokenizer can't encode"):
        token_ids("dog", tokenizer)


def test_t5s_tokenizers_give_what_transformers_pads_and_ends():
    """Texts are lower-cased, keep their punctuation and end with `</s>`: LlamaGen's captions."""
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "dog": 4, "!": 5}
    theirs = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    ours = TextTokenizer(Tokenizer.from_str(theirs.to_str()), 4)
    theirs.enable_padding(length=4, pad_id=0, pad_token="<pad>")
    theirs.enable_truncation(4)
    texts = ["a dog!", "a", "", "a dog a dog a"]
    want = [encoding.ids for encoding in theirs.encode_batch(texts)]
    np.testing.assert_array_equal(ours([text.upper() for text in texts]), want)
    assert ours.clean == "lower"


def test_a_tokenizer_without_an_end_token_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}, unk_token="a"))
    with pytest.raises(UserError, match="<eos>"):
        TextTokenizer(tokenizer, 4)
