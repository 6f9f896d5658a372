"""The templates that configs name: LLaVA's (llava/conversation.py) and Qwen's.

Texts are LLaVA's to the letter. Two things differ from its training code. In the templates of v0,
LLaVA trained another spelling ("### Human: ") than it asked with; here the prompt's is trained. And
a conversation whose first turn is the assistant's is refused, where LLaVA drops that turn.
"""

import dataclasses

from toklip_jax.core.fields import check_name
from toklip_jax.data.conversations.templates import (
    CaptionTemplate,
    Template,
    TurnTemplate,
    chatml,
)

_CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
_CURIOUS_USER = _CURIOUS_HUMAN.replace("human", "user")
_VISUAL = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able "
    "to understand the visual content that the user provides, and assist the user with a variety "
    "of tasks using natural language.The visual content will be provided with the following "
    "format: <Image>visual content</Image>."
)
# The example that v0 puts between the system's text and the conversation.
_EXAMPLE = (
    "###Human: What are the key differences between renewable and non-renewable energy sources?"
    "###Assistant: Renewable energy sources are those that can be replenished naturally in a "
    "relatively short amount of time, such as solar, wind, hydro, geothermal, and biomass. "
    "Non-renewable energy sources, on the other hand, are finite and will eventually be depleted, "
    "such as coal, oil, and natural gas. Here are some key differences between renewable and "
    "non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable "
    "energy sources are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than "
    "non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, "
    "and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they "
    "typically have lower operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more "
    "remote locations than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to "
    "different situations and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while "
    "non-renewable sources are not, and their depletion can lead to economic and social "
    "instability.\n"
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of "
    "answering something not correct. If you don't know the answer to a question, please don't "
    "share false information."
)
_VISION_ASSISTANT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_MPT = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and "
    "honest answers."
)


def template_of(name: str) -> Template:
    """Returns the template of a name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    return TEMPLATES[check_name("a template", name, TEMPLATES)]


def ending_with(template: TurnTemplate, marker: str) -> TurnTemplate:
    """Returns a template whose answers end with another special token, for another tokenizer.

    Args:
        marker: such as `<eos>`; it replaces the template's last marker everywhere.
    """
    old = template.markers[-1]

    def changed(value):
        if isinstance(value, str):
            return value.replace(old, marker)
        return tuple(map(changed, value)) if isinstance(value, tuple) else value

    fields = {field.name: getattr(template, field.name) for field in dataclasses.fields(template)}
    return dataclasses.replace(template, **{name: changed(one) for name, one in fields.items()})


def _single(system):
    """Style SINGLE: "###" before each turn; the one after an answer is trained, as its end."""
    return TurnTemplate(
        system=system,
        around_system=("", "###"),
        around_user=("Human: ", "###"),
        before_answer="Assistant:",
        space=" ",
        end="###",
    )


def _two(system):
    """Style TWO: a space after the user's turns, `</s>` after answers, which is trained."""
    return TurnTemplate(
        system=system,
        around_system=("", " "),
        around_user=("USER: ", " "),
        before_answer="ASSISTANT:",
        space=" ",
        end="</s>",
        markers=("</s>",),
    )


def _llama_2(system, between="<s>"):
    """Style LLAMA_2: the system's text within the first user turn; ` </s>` is trained."""
    return TurnTemplate(
        system=system,
        around_system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        around_user=("[INST] ", " [/INST]"),
        before_answer="",
        space=" ",
        end=" </s>",
        between=between,
        is_system_in_user=True,
        markers=(between, "</s>") if between else ("</s>",),
    )


def _mpt(system):
    """Style MPT: ChatML without line ends between turns; `<|im_end|>` is trained."""
    return TurnTemplate(
        system=system,
        around_system=("<|im_start|>system\n", "<|im_end|>"),
        around_user=("<|im_start|>user\n", "<|im_end|>"),
        before_answer="<|im_start|>assistant\n",
        end="<|im_end|>",
        markers=("<|im_start|>", "<|im_end|>"),
    )


TEMPLATES: dict[str, Template] = {
    "default": _single(_CURIOUS_HUMAN + _EXAMPLE),
    "v0": _single(_CURIOUS_HUMAN + _EXAMPLE),
    "v1": _two(_CURIOUS_USER),
    "vicuna_v1": _two(_CURIOUS_USER),
    "llama_2": _llama_2(_LLAMA_2),
    "mistral_instruct": _llama_2("", between=""),
    "chatml_direct": _mpt("Answer the questions."),
    "mistral_direct": _mpt("Answer the questions."),
    "plain": CaptionTemplate(),
    "v0_plain": CaptionTemplate(),
    "llava_v0": _single(_CURIOUS_HUMAN),
    "v0_mmtag": _single(_VISUAL),
    "llava_v1": _two(_CURIOUS_HUMAN),
    "v1_mmtag": _two(_VISUAL),
    "llava_llama_2": _llama_2(_VISION_ASSISTANT),
    "mpt": _mpt(_MPT),
    "chatml": chatml(),
    "qwen2": chatml("You are a helpful assistant."),
    "qwen2.5": chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "qwen3": chatml(),
    # For small models with tokenizers of this package: questions and answers end alike.
    "short": TurnTemplate("", ("", ""), ("", "<eos>"), "", end="<eos>", markers=("<eos>",)),
}
