"""Which of a question's options a text means, by VLMEvalKit's rule in its three published forms."""

from collections.abc import Callable, Mapping

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name

UNSURE = "Z"  # an answer that refuses to choose
_SPACING = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_API_FAILURE = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_LAST = 5  # words
_LONGEST = 2  # times the length of all options: a longer text may quote any of them
# Whether an option's letter counts at a place among a number of words.
OPTION_FORMS: dict[str, Callable[[int, int], bool]] = {
    "no_position": lambda place, count: True,
    "last_five": lambda place, count: place > count - _LAST,
    "before_last_five": lambda place, count: place < count - _LAST,
}


def matched_option(
    text: str, options: Mapping[str, str], form: str = "last_five", *, by_text: bool = True
) -> str | None:
    """Returns the letter of the option that a text means, "Z" where it refuses, or None.

    The option is the only one whose letter is a word of the text, brackets and punctuation apart;
    or else, where `by_text`, the only one whose own text occurs in it, in any case.

    Source: `can_infer` in VLMEvalKit, by which MMBench (Liu et al., arXiv:2307.06281) is scored
    without a language model. It was published in three forms, which differ in where the letter has
    to stand: anywhere ("no_position", 2024); within the last words, so that fewer than five follow
    ("last_five", later); or with at least five words after it ("before_last_five", at 134b4ea),
    which reads no letter in a bare "B".

    Args:
        text: an answer.
        options: letter -> text, in order.
        form: one of `OPTION_FORMS`.
        by_text: whether the options' own texts are looked for.

    Raises:
        ValueError: another form, or no options.
    """
    check_name("a form of the rule", form, OPTION_FORMS)
    if not options:
        raise UserError("expected options to choose from, got none: give their letters and texts")
    letter = _option_by_letter(text, options, OPTION_FORMS[form])
    return letter or (_option_by_text(text, options) if by_text else None)


def _option_by_letter(text, options, counts_at):
    if _API_FAILURE in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return UNSURE
    words = text.translate(_SPACING).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1:
        return named[0] if counts_at(words.index(named[0]), len(words)) else None
    return UNSURE if not named and UNSURE in words else None


def _option_by_text(text, options):
    text = text.lower()
    if len(text) > _LONGEST * sum(map(len, options.values())):
        return None
    quoted = [letter for letter, option in options.items() if option.lower() in text]
    return quoted[0] if len(quoted) == 1 else None
