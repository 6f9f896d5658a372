"""The page's section of names: the phrases nearest to an image, and the images nearest to one.

A phrase is right for an image whose title it equals, case and punctuation aside.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from toklip_jax.data.text import canonicalize
from toklip_jax.evaluation.retrieval import nearest_keys
from toklip_jax.report.gallery import Gallery
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section
from toklip_jax.report.parts import thumbnail
from toklip_jax.report.phrases import Phrases

DEPTH = 5  # answers shown
NUM_ASKED = 4  # titles whose nearest images are shown
IMAGE_PIXELS = 192  # of a large image beside its names
RIGHT = tag("span", "✓", class_="right", role="img", aria_label="right")


def naming_section(gallery: Gallery, phrases: Phrases, output: Output) -> Section:
    """Returns the phrases nearest to the images, and the images nearest to some titles."""
    named = [_named(gallery, phrases, i, output) for i in range(len(gallery.picks))]
    lead = [
        f"For each image, the nearest of the page's {len(phrases.texts):,} phrases (cosine of text "
        "and image feature, at full width). Phrases are taken as they are, without the prompts "
        "that evaluations may put around them. ",
        RIGHT,
        " marks the name that the source gives the image; where it is not among the first "
        f"{DEPTH}, it follows with its rank.",
    ]
    body = [tag("div", named, class_="named"), _found(gallery, phrases, output)]
    return Section("naming", "Names for the images", lead, body)


def are_right(titles: Sequence[str], phrases: Sequence[str]) -> Bool[np.ndarray, "m p"]:
    """Says which phrases equal which titles, once both are canonical; what is empty equals none."""
    names, texts = (
        np.array([canonicalize(text) for text in some], object) for some in (titles, phrases)
    )
    return (names[:, None] == texts) & (texts != "")


def _named(gallery, phrases, i, output) -> Markup:
    """An image beside the phrases nearest to it."""
    pool, pick, count = gallery.pool, gallery.picks[i], len(phrases.texts)
    (places,), (scores,) = nearest_keys(pool.features[[pick]], phrases.features, count)
    is_right = are_right([pool.titles[pick]], phrases.texts)[0, places]
    shown = list(range(count))[:DEPTH]
    if is_right.any() and not is_right[shown].any():
        shown.append(int(np.argmax(is_right)))
    answers = [
        _answer(rank, phrases.texts[places[rank]], scores[rank], is_right[rank]) for rank in shown
    ]
    image = output.picture(gallery.images[i], gallery.names[i], largest=IMAGE_PIXELS)
    caption = tag("figcaption", gallery.names[i])
    return tag("figure", image, tag("div", caption, tag("ol", answers)))


def _answer(rank, text, score, is_right):
    cells = (
        tag("small", f"{rank + 1:,}"),
        tag("span", text),
        tag("span", RIGHT if is_right else None),
        tag("small", f"{score:.2f}"),
    )
    return tag("li", *cells, class_="true" if is_right else None)


def _found(gallery, phrases, output) -> list[Markup]:
    """Titles of the images, and the images of the pool nearest to each."""
    pool = gallery.pool
    asked = np.flatnonzero(are_right(gallery.titles, phrases.texts).any(axis=0))[:NUM_ASKED]
    if not len(asked):
        return []
    depth = min(DEPTH, len(pool.titles))
    places, scores = nearest_keys(phrases.features[asked], pool.features, depth)
    texts = [phrases.texts[place] for place in asked]
    is_right = are_right(pool.titles, texts)
    rows = []
    for row, text in enumerate(texts):
        found = [
            thumbnail(output, pool, place, _note(score, is_right[place, row]))
            for place, score in zip(places[row], scores[row], strict=True)
        ]
        right = int(np.count_nonzero(is_right[:, row]))
        heading = tag(
            "p",
            tag("b", f"“{text}”"),
            " ",
            tag("small", f"right: {right:,} of {len(pool.titles):,}"),
        )
        rows.append(tag("li", heading, tag("div", found)))
    return [
        tag("h3", "Images for a name"),
        tag("p", f"The images nearest to a text, {gallery.among}."),
        tag("ul", rows, class_="found"),
    ]


def _note(score, is_right):
    return tag("small", f"{score:.2f} ", RIGHT if is_right else None)
