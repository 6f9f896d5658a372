"""Cleaning of captions, as the released models do it."""

import html
import string
from collections.abc import Callable

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str, clean: str) -> str:
    """Returns `text` cleaned by `CLEANERS[clean]`; the released models use "canonicalize"."""
    return CLEANERS[clean](text)


def basic_clean(text: str) -> str:
    """Fixes wrongly decoded text (ftfy) and (doubly escaped) HTML entities, and strips it."""
    import ftfy  # its tables are slow to import

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def whitespace_clean(text: str) -> str:
    """Cleans, and replaces every run of white space by one space."""
    return _single_spaces(basic_clean(text))


def lower_clean(text: str) -> str:
    """Cleans, replaces every run of white space by one space, and lower-cases: OpenAI CLIP's."""
    return whitespace_clean(text).lower()


def canonicalize(text: str) -> str:
    """Cleans, drops ASCII punctuation, lower-cases, and leaves single spaces, also for `_`.

    SigLIP's cleaning, after big_vision's `canonicalize`; it joins hyphenated words.
    """
    text = basic_clean(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return _single_spaces(text.lower())


CLEANERS: dict[str, Callable[[str], str]] = {
    "basic": basic_clean,
    "whitespace": whitespace_clean,
    "lower": lower_clean,
    "canonicalize": canonicalize,
}


def _single_spaces(text):
    return " ".join(text.split())
