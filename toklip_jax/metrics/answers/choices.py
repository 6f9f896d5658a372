"""Short rules that compare exactly: GQA's words, SEED's letters, ScienceQA's letters."""

import re

LETTERS = "ABCDE"  # ScienceQA's options
_SENTENCE = re.compile(r"The answer is ([A-Z]).")  # the last dot stands for any character


def gqa_answer(text: str) -> str:
    """Returns an answer as GQA compares it with the reference, exactly: no full stops at its end,
    lower case. Spaces and line breaks stay, so "No.\\n" is not "no".

    Source: LLaVA's `convert_gqa_for_eval.py`; Hudson and Manning, arXiv:1902.09506.
    """
    return text.rstrip(".").lower()


def is_same_letter(text: str, letter: str) -> bool:
    """Says whether a text is an option's letter and nothing else, as SEED-Bench's rule wants it.

    "b", "B.", " B" and "(B)" are wrong.

    Source: LLaVA's `convert_seed_for_submission.py`; Li et al., arXiv:2307.16125.
    """
    return text == letter


def scienceqa_letter(text: str | None, num_choices: int) -> str | None:
    """Returns the option that a text names by ScienceQA's rule, or None.

    It is the whole text; or else its first letter, before a full stop and a space; or else what
    follows "The answer is", if that occurs once with a letter and one more character. A letter
    beyond the question's choices is no option.

    Source: LLaVA's `eval_science_qa.py` at c121f04; Lu et al., arXiv:2209.09513.

    Args:
        text: an answer; None where there is none, which counts as wrong.
        num_choices: how many options the question has, at most five.
    """
    text = text or ""
    found = None
    if text in tuple(LETTERS):
        found = text
    elif text[:1] in tuple(LETTERS) and text[1:3] == ". ":
        found = text[0]
    elif len(letters := _SENTENCE.findall(text)) == 1:
        found = letters[0]
    return found if found in tuple(LETTERS[:num_choices]) else None
