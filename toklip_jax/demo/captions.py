"""Captions of emoji to train on, and the evaluation's prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from toklip_jax.data.text import TextTokenizer
from toklip_jax.demo.artwork import Concept

BARE_SHARE = 0.3  # of captions: a group or a subgroup alone
NUM_KEYWORDS = 3
NAME_PROMPTS = ("{}", "an emoji of {}")
GROUP_PROMPTS = ("{}",)


def draw_caption(concept: Concept, rng: np.random.Generator) -> str:
    """Returns a random caption: its group or subgroup (30 %), or one of four kinds that name it."""
    if rng.random() < BARE_SHARE:
        return concept.group if rng.random() < 0.5 else concept.subgroup
    kinds = (_name, _emoji_of, _with_keywords, _with_subgroup)
    return kinds[rng.integers(len(kinds))](concept, rng)


def all_captions(concepts: Sequence[Concept]) -> list[str]:
    """Returns captions with every word that any caption may have, to train a tokenizer on."""
    captions = [c for concept in concepts for c in (concept.group, concept.subgroup)]
    for concept in concepts:
        captions += [concept.name, _emoji_of(concept), _with_subgroup(concept)]
        captions.append(" ".join((concept.name, *concept.keywords)))
    return captions


def caption_table(
    concepts: Sequence[Concept], tokenizer: TextTokenizer, num_captions: int, seed: int = 0
) -> Int32[np.ndarray, "n captions t"]:
    """Returns token ids of `num_captions` random captions per concept.

    Training picks among these: tokenizing as it goes would cost more than the picture.
    """
    rng = np.random.default_rng(seed)
    drawn = [draw_caption(concept, rng) for concept in concepts for _ in range(num_captions)]
    rows = {caption: row for row, caption in enumerate(dict.fromkeys(drawn))}
    ids = tokenizer(list(rows))[[rows[caption] for caption in drawn]]
    return ids.reshape(len(concepts), num_captions, tokenizer.context_length)


def _name(concept, rng=None):
    return concept.name


def _emoji_of(concept, rng=None):
    return f"an emoji of {concept.name}"


def _with_keywords(concept, rng):
    count = min(NUM_KEYWORDS, len(concept.keywords))
    words = rng.choice(concept.keywords, count, replace=False) if count else ()
    return ", ".join((concept.name, *words))


def _with_subgroup(concept, rng=None):
    return f"{concept.subgroup} {concept.name}"
