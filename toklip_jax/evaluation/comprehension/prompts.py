"""The prompts of LLaVA-1.5's evaluation (arXiv:2310.03744; docs/Evaluation.md there)."""

from collections.abc import Mapping, Sequence

SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
SHORT_FORM = f"<question>\\n{SHORT_ANSWER}"
OPTIONS_FORM = f"<question>\\nA. <option>\\n...\\n{OPTION_LETTER}"


def short_answer(question: str, *context: str) -> str:
    """Returns the prompt for a word or phrase; lines of `context` follow the question."""
    return "\n".join((question, *context, SHORT_ANSWER))


def option_letter(question: str, options: Mapping[str, str], request: str = OPTION_LETTER) -> str:
    """Returns the prompt for a letter: the question, a line "A. text" for each option, a request.

    Args:
        options: letter -> text, in order.
        request: the last line.
    """
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    return "\n".join((question, *lines, request))


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Returns the options by their letters, from A on."""
    return {chr(ord("A") + place): text for place, text in enumerate(options)}
