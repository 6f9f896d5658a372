"""The normalisation of short answers by which EvalAI's VQA challenges compare them."""

import itertools
import re

# "?" and "," are gone before; the apostrophe and the colon stay.
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = "zero one two three four five six seven eight nine ten".split()
NUMBER_WORDS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
# The published code passes a flag where `re.sub` takes the number of replacements.
MOST_PERIODS = 32
# Each of them is also known without one of its apostrophes, but not without two.
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
""".split()


def evalai_normalised(text: str) -> str:
    """Returns an answer as EvalAI compares it.

    Lower case; no commas and question marks; "'s" a word of its own; other punctuation deleted if
    it stands beside a space anywhere in the text, otherwise made a space; no full stops but before
    digits (of the first 32); numbers up to ten as digits, "none" as 0; no articles; apostrophes put
    back into contractions.

    Source: `EvalAIAnswerProcessor` of pythia (MMF), which LLaVA uses, with its peculiarities. It
    follows the evaluation code of VQA (Goyal et al., arXiv:1612.00837), which in addition leaves
    answers as they are where all annotators agree.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    text = re.sub(r"\.(?!\d)", "", text.translate(_replacements(text)), count=MOST_PERIODS)
    words = (NUMBER_WORDS.get(word, word) for word in text.split())
    return " ".join(_FULL_FORMS.get(word, word) for word in words if word not in ARTICLES)


def _replacements(text):
    """Says for each punctuation mark what stands for it in this text."""
    return {
        ord(mark): "" if f"{mark} " in text or f" {mark}" in text else " " for mark in PUNCTUATION
    }


def _without_one_apostrophe(word):
    for place, letter in enumerate(word):
        if letter == "'":
            yield word[:place] + word[place + 1 :]


_FULL_FORMS = dict(
    itertools.chain.from_iterable(
        ((short, word) for short in _without_one_apostrophe(word)) for word in CONTRACTIONS
    )
) | {"somebody'd": "somebodyd"}  # the table's one entry that goes the other way
