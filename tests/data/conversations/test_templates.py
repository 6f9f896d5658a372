"""What templates write, which of it is trained, and what they refuse."""

import json

import pytest

from toklip_jax.data.conversations import (
    IMAGE,
    TEMPLATES,
    BadConversation,
    CaptionTemplate,
    ChatTemplate,
    Conversation,
    ending_with,
    template_of,
)

NAMES = """
    default v0 v1 vicuna_v1 llama_2 mistral_instruct chatml_direct mistral_direct llava_v0 v0_mmtag
    llava_v1 v1_mmtag llava_llama_2 mpt
""".split()
QUESTION = Conversation.of([("user", "Why?"), ("assistant", "So."), ("user", "And?")])
WHOLE = Conversation.of([*((t.role, t.text) for t in QUESTION.turns), ("assistant", "Yes.")])


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def trained(pieces):
    return [piece.text for piece in pieces if piece.is_trained]


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads(golden("scorers/conversation_prompts.json").read_text())


def test_every_recorded_template_is_there(recorded):
    assert set(recorded["prompts"]) == {*NAMES, "plain", "v0_plain"}
    assert set(recorded["prompts"]) < set(TEMPLATES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["text", "image"])
def test_prompts_are_llavas(name, form, recorded):
    (question, answer), (second, _) = recorded["turns"]
    first = f"{IMAGE}\n{question}" if form == "image" else question
    turns = [("user", first), ("assistant", answer), ("user", second)]
    conversation = Conversation.of(turns, ["a.jpg"] if form == "image" else [])
    pieces = template_of(name).pieces(conversation, is_prompt=True)
    assert text_of(pieces) == recorded["prompts"][name][form]
    assert len(trained(pieces)) == 1
    assert trained(pieces)[0].strip().startswith(answer)


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("v1", [" So.</s>", " Yes.</s>"]),
        ("v0", [" So.###", " Yes.###"]),
        ("llava_llama_2", [" So. </s>", " Yes. </s>"]),
        ("mpt", ["So.<|im_end|>", "Yes.<|im_end|>"]),
        ("qwen2.5", ["So.<|im_end|>", "Yes.<|im_end|>"]),
    ],
)
def test_answers_are_trained_with_the_marker_that_ends_them(name, answers):
    pieces = template_of(name).pieces(WHOLE)
    assert trained(pieces) == answers
    # What is trained is what a prompt lacks: the prompt and the answer are the whole.
    prompt = text_of(template_of(name).pieces(QUESTION, is_prompt=True))
    assert text_of(pieces).startswith(prompt + answers[-1])


def test_chatml_is_qwens():
    pieces = template_of("qwen2.5").pieces(QUESTION, is_prompt=True)
    assert text_of(pieces) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text_of(template_of("qwen3").pieces(QUESTION)).startswith("<|im_start|>user\nWhy?")


def test_a_conversations_own_system_turn_replaces_the_templates():
    own = Conversation.of([("system", "Be brief."), *((t.role, t.text) for t in WHOLE.turns)])
    assert text_of(template_of("v1").pieces(own)).startswith("Be brief. USER: Why?")
    assert text_of(template_of("llama_2").pieces(own)).startswith(
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST] So. </s><s>[INST] And?"
    )


def test_plain_is_the_image_and_the_caption():
    caption = Conversation.of(
        [("user", f"Describe it.\n{IMAGE}"), ("assistant", "A cat.")], ["a.jpg"]
    )
    assert text_of(template_of("plain").pieces(caption)) == f"{IMAGE}A cat.\n"
    assert trained(template_of("plain").pieces(caption)) == ["A cat.\n"]
    with pytest.raises(BadConversation, match="a user turn with <image> and its caption"):
        CaptionTemplate().pieces(WHOLE)


def test_another_marker_ends_answers_where_the_tokenizer_has_another():
    pieces = ending_with(template_of("llama_2"), "<eos>").pieces(WHOLE)
    assert trained(pieces) == [" So. <eos>", " Yes. <eos>"]
    assert ending_with(template_of("v1"), "<eos>").markers == ("<eos>",)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("user", "a</s>b"), ("assistant", "c")], "without '</s>'"),
        ([("assistant", "a"), ("user", "b")], "in alternation"),
        ([("user", "a"), ("user", "b")], "in alternation"),
    ],
)
def test_what_a_template_has_no_form_for_is_refused(turns, message):
    with pytest.raises(BadConversation, match=message):
        template_of("v1").pieces(Conversation.of(turns))
    with pytest.raises(ValueError, match="did you mean 'vicuna_v1'"):
        template_of("vicuna_v2")
    with pytest.raises(ValueError, match="ends with a user turn"):
        template_of("v1").pieces(WHOLE, is_prompt=True)


class Rendering:
    """A stand-in for a tokenizer of transformers, whose template is a function."""

    chat_template = "a template"

    def __init__(self, drops_thoughts=False):
        self.drops_thoughts = drops_thoughts

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        assert tokenize is False
        text = "<bos>"
        for place, turn in enumerate(turns):
            is_last = place == len(turns) - 1
            thought = "..." if turn["role"] == "assistant" and is_last else ""
            thought = thought if self.drops_thoughts else ""
            text += f"[{turn['role']}]{thought}{turn['content']}<e>\n"
        return text + ("[assistant]" if add_generation_prompt else "")


def test_a_tokenizers_own_chat_template_trains_answers_up_to_their_marker():
    pieces = ChatTemplate(Rendering()).pieces(WHOLE)
    assert trained(pieces) == ["So.<e>", "Yes.<e>"]
    assert text_of(pieces) == (
        "<bos>[user]Why?<e>\n[assistant]So.<e>\n[user]And?<e>\n[assistant]Yes.<e>\n"
    )
    assert text_of(ChatTemplate(Rendering()).pieces(QUESTION, is_prompt=True)).endswith(
        "[user]And?<e>\n[assistant]"
    )
    with pytest.raises(ValueError, match="writes a turn alike whatever follows"):
        ChatTemplate(Rendering(drops_thoughts=True)).pieces(WHOLE)
    with pytest.raises(ValueError, match="with a chat template"):
        ChatTemplate(object())
