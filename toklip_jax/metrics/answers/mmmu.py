"""MMMU's rules: which option a text means, and whether it answers an open question.

Source: `eval_utils.py` of MMMU (Yue et al., arXiv:2311.16502).
"""

import re
from collections.abc import Mapping, Sequence

_ENDS = ",.!?;:'"  # taken off an answer one after the other, each at both ends
_FEW_WORDS = 5  # an answer of no more is not searched for the options' texts
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_DECIMALS = 2
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # with commas
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # in scientific notation
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu_letter(text: str, options: Mapping[str, str]) -> str | None:
    """Returns the letter of the option that a text means, or None.

    The first that finds any: letters in brackets, letters as words, and, in a text of more than
    five words, the options' own texts. Where it finds several, the one that stands last.

    The published code makes a random choice where nothing is found; whoever compares with figures
    that have it draws one.

    Args:
        text: an answer.
        options: letter -> text, in order.
    """
    for mark in _ENDS:
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        if letter := _last(text, {letter: form.format(letter) for letter in options}):
            return letter
    if len(text.split()) <= _FEW_WORDS:
        return None
    return _last(text.lower(), {letter: option.lower() for letter, option in options.items()})


def is_open_answer_right(text: str, references: str | Sequence[str]) -> bool:
    """Says whether a text answers an open question.

    The candidates are what follows words such as "is" and "answer" in each line of it, and the
    numbers there. A number has to equal a reference at two decimals; a text has to contain one.

    Args:
        text: an answer.
        references: the right answer, or several.
    """
    references = [references] if isinstance(references, str) else references
    known = [value for reference in references for value in _values(reference)]
    texts = [value for value in known if isinstance(value, str)]
    return any(
        any(reference in candidate for reference in texts)
        if isinstance(candidate, str)
        else candidate in known
        for candidate in _candidates(text)
    )


def _last(text, patterns):
    """Returns the name of the pattern that occurs last in a text, the first of equals, or None."""
    places = {name: text.rfind(pattern) for name, pattern in patterns.items() if pattern in text}
    return max(places, key=places.get, default=None)


def _candidates(text):
    """Returns texts and numbers that may be meant as the answer."""
    text = text.strip().strip(".").lower()
    lines = text.split("\n")
    ends = [_end_of_line(line) for line in lines[:-1]] + [_end_of_line(lines[-1], is_last=True)]
    ends = [end for end in ends if end and end not in _TRIVIAL] or [text]
    numbers = [number for end in ends for form in _NUMBERS for number in form.findall(end)]
    return [value for candidate in ends + numbers for value in _values(candidate)]


def _end_of_line(line, is_last=False):
    """Returns the shortest text that follows a key, or None; in the last line "=" is one too."""
    keys = (*_KEYS, "=") if is_last else _KEYS
    shortest = None
    for end in (line.split(key)[-1].strip() for key in keys if key in line):
        if not shortest or len(end) < len(shortest):  # any text is taken instead of an empty one
            shortest = end
    return shortest


def _values(text):
    """Returns a text as it is compared: a number, or lower case; one letter needs a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), _DECIMALS)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
