"""Rows of conversations: their ids, which of them are trained, and how they are cut."""

import pickle

import numpy as np
import pytest
import transformers
from tokenizers.processors import TemplateProcessing

from toklip_jax.data.conversations import (
    IGNORED,
    IMAGE,
    TEMPLATES,
    BadConversation,
    ChatTemplate,
    Conversation,
    FastTokenizer,
    Piece,
    chat_tokenizer,
    encode_conversation,
    encode_prompt,
    ending_with,
    template_of,
    tokenize_pieces,
)
from toklip_jax.data.text import TextTokenizer, train_tokenizer

TOKENS = 3  # of an image
TURNS = [
    ("user", f"{IMAGE}\nWhat is it?"),
    ("assistant", "A cät 🐈."),
    ("user", f"And {IMAGE} here?"),
    ("assistant", "The mat"),
]
CONVERSATION = Conversation.of(TURNS, ["a.jpg", "b.jpg"], name="seven")
CHATS = [name for name in TEMPLATES if not name.endswith("plain")]


def trained_text(row, tokenizer):
    """The texts of each run of trained tokens."""
    kept, texts = row.labels != IGNORED, []
    for start in np.flatnonzero(kept & ~np.r_[False, kept[:-1]]):
        end = start + np.argmin(np.r_[kept[start:], False])
        texts.append(tokenizer.decode(row.labels[start:end].tolist(), skip_special_tokens=False))
    return texts


@pytest.mark.parametrize("name", CHATS)
def test_trained_tokens_are_the_answers_and_the_ids_are_the_texts(name, byte_level, chat):
    template = template_of(name)
    row = encode_conversation(CONVERSATION, chat, template, TOKENS)
    pieces = template.pieces(CONVERSATION)
    assert trained_text(row, byte_level) == [p.text for p in pieces if p.is_trained]
    kept = row.labels != IGNORED
    np.testing.assert_array_equal(row.labels[kept], row.ids[kept])
    is_text = row.image_places < 0
    text = byte_level.decode(row.ids[is_text].tolist(), skip_special_tokens=False)
    assert text == "".join(piece.text for piece in pieces).replace(IMAGE, "")
    assert row.image_places[~is_text].tolist() == list(range(2 * TOKENS))
    assert np.all(row.ids[~is_text] == chat.pad_id)
    assert row.images == ("a.jpg", "b.jpg")
    assert row.ids.dtype == row.labels.dtype == row.image_places.dtype == np.int32


def test_a_prompt_is_the_row_up_to_its_last_answer(chat):
    whole = encode_conversation(CONVERSATION, chat, template_of("qwen2.5"), TOKENS)
    prompt = encode_prompt(
        Conversation.of(TURNS[:3], CONVERSATION.images), chat, template_of("qwen2.5"), TOKENS
    )
    np.testing.assert_array_equal(whole.ids[: len(prompt)], prompt.ids)
    np.testing.assert_array_equal(whole.image_places[: len(prompt)], prompt.image_places)
    assert np.all(whole.labels[len(prompt) :][:3] != IGNORED)
    with pytest.raises(ValueError, match="ends with a user turn"):
        encode_prompt(CONVERSATION, chat, template_of("qwen2.5"), TOKENS)


def test_a_start_token_comes_first_and_once(byte_level):
    tokenizer = FastTokenizer(byte_level, "<pad>", "<s>")
    row = encode_conversation(CONVERSATION, tokenizer, template_of("v1"), TOKENS)
    start = byte_level.token_to_id("<s>")
    assert row.ids[0] == start
    assert np.count_nonzero(row.ids == start) == 1
    assert row.labels[0] == IGNORED


def test_a_token_is_trained_only_if_all_its_characters_are():
    class Pairs:
        """Two characters a token, so that tokens straddle the answer's ends."""

        pad_id, bos_id, fingerprint = 0, None, "pairs"

        def encode(self, text):
            spans = [(i, min(i + 2, len(text))) for i in range(0, len(text), 2)]
            return list(range(len(spans))), spans

    pieces = [Piece("abc"), Piece("DEFG", is_trained=True), Piece("hi")]  # ab cD EF Gh i
    ids, labels = tokenize_pieces(pieces, Pairs())
    assert ids.tolist() == [0, 1, 2, 3, 4]
    assert labels.tolist() == [-100, -100, 2, -100, -100]


def test_a_transformers_tokenizer_gives_the_same_rows(byte_level, chat):
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level, pad_token="<pad>")
    for name in ("qwen2.5", "v1", "plain"):
        conversation = CONVERSATION if name != "plain" else Conversation.of(TURNS[:2], ["a.jpg"])
        ours, theirs = (
            encode_conversation(conversation, tokenizer, template_of(name), TOKENS)
            for tokenizer in (chat, plain)
        )
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    with pytest.raises(ValueError, match="with a padding token"):
        chat_tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level))
    with pytest.raises(ValueError, match="FastTokenizer"):
        chat_tokenizer(byte_level)


def test_the_start_token_of_a_transformers_tokenizer_is_the_one_that_it_adds(byte_level):
    with_start = type(byte_level).from_str(byte_level.to_str())
    with_start.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", byte_level.token_to_id("<s>"))]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>"}
    adds = transformers.PreTrainedTokenizerFast(tokenizer_object=with_start, **names)
    adds_none = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level, **names)
    assert chat_tokenizer(adds).bos_id == byte_level.token_to_id("<s>")
    assert chat_tokenizer(adds_none).bos_id is None
    row = encode_conversation(CONVERSATION, adds, template_of("v1"), TOKENS)
    ours = FastTokenizer(byte_level, "<pad>", "<s>")
    same = encode_conversation(CONVERSATION, ours, template_of("v1"), TOKENS)
    np.testing.assert_array_equal(row.ids, same.ids)


def test_a_chat_template_of_transformers_gives_chatmls_rows(byte_level, chat):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level,
        pad_token="<pad>",
        chat_template=(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )
    own = encode_conversation(CONVERSATION, tokenizer, ChatTemplate(tokenizer), TOKENS)
    ours = encode_conversation(CONVERSATION, chat, template_of("qwen3"), TOKENS)
    np.testing.assert_array_equal(own.ids, ours.ids)
    np.testing.assert_array_equal(own.labels, ours.labels)


def test_the_projects_text_tokenizer_is_taken_without_its_cleaning():
    text = TextTokenizer(train_tokenizer(["A cat: USER, ASSISTANT."], 100, clean="basic"), 4)
    template = ending_with(template_of("v1"), "<eos>")
    turns = [("user", f"{IMAGE}\nA cat"), ("assistant", "A cat. A cat: USER")]
    row = encode_conversation(Conversation.of(turns, ["a"]), text, template, TOKENS)
    inner = text.without_cleaning
    assert [t.strip() for t in trained_text(row, inner)] == ["A cat. A cat: USER<eos>"]
    assert len(row) > text.context_length
    with pytest.raises(ValueError, match=r"marker '</s>' is one token.*ending_with"):
        encode_conversation(Conversation.of(turns, ["a"]), text, template_of("v1"), TOKENS)


def test_rows_that_are_too_long_are_refused_or_cut_but_never_within_an_image(chat):
    template = template_of("v1")
    whole = encode_conversation(CONVERSATION, chat, template, TOKENS)
    last = int(np.flatnonzero(whole.image_places >= 0)[-1])

    def cut(length, truncation):
        return encode_conversation(
            CONVERSATION, chat, template, TOKENS, max_length=length, truncation=truncation
        )

    assert len(cut(len(whole), "refuse")) == len(whole)
    with pytest.raises(BadConversation, match="expected at most") as error:
        cut(len(whole) - 1, "refuse")
    assert error.value.cause == "longer than the maximal length"
    row = cut(last + 1, "cut_text")
    np.testing.assert_array_equal(row.ids, whole.ids[: last + 1])
    with pytest.raises(BadConversation, match="which end with an image") as error:
        cut(last, "cut_text")
    assert error.value.cause == "an image beyond the maximal length"
    row = cut(last, "cut")
    assert (len(row), row.images) == (last, ("a.jpg", "b.jpg"))
    first = int(np.flatnonzero(whole.labels != IGNORED)[0])
    with pytest.raises(BadConversation, match="an answer within the row"):
        cut(first, "cut")
    with pytest.raises(ValueError, match="did you mean 'cut_text'"):
        cut(last, "cut_texts")


@pytest.mark.parametrize(
    ("turns", "images", "cause"),
    [
        ([("user", IMAGE), ("assistant", "a")], [], "another number of <image> than of images"),
        ([("user", ""), ("assistant", "a")], ["a"], "another number of <image> than of images"),
        ([("bot", "a")], [], "an unknown role"),
        ([("user", "a"), ("system", "a")], [], "a system turn after the first"),
        ([("user", "a")], [], "no assistant turn"),
    ],
)
def test_bad_conversations_say_why(turns, images, cause, chat):
    with pytest.raises(BadConversation) as error:
        encode_conversation(Conversation.of(turns, images), chat, template_of("v1"), TOKENS)
    assert error.value.cause == cause
    assert str(error.value).startswith("expected ")


def test_tokenizers_go_to_worker_processes(chat):
    again = pickle.loads(pickle.dumps(chat))
    assert again.encode("A cat") == chat.encode("A cat")
    assert again.fingerprint == chat.fingerprint
