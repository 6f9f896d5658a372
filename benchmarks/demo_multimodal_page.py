"""A page of the comparison of multimodal models: its table, conversations to read, drawings.

    python -m benchmarks.demo_multimodal_page --workdir=runs/multimodal --output=page.html

It shows runs of `benchmarks/demo_multimodal.py`: of each kind of question a few that all models of
one seed were asked, with their answers.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.demo_multimodal import COLUMNS, VARIANTS
from benchmarks.seeds import by_variant, cell
from toklip_jax.demo.emoji import EmojiSplit, named_split
from toklip_jax.demo.questions import KINDS, held_out_questions
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.page import Section, render_page, scroll_box, table
from toklip_jax.report.rasters import data_uri

READS = {
    "tokens": "TokLIP's tokens",
    "codes": "code vectors",
    "both": "tokens and code vectors",
    "ids": "ids alone",
    "tokens_and_ids": "tokens and ids",
    "pixels": "the teacher's pixels",
    "one_model": "tokens and ids, and draws",
}
CREDIT = "Twemoji, © Twitter, Inc and other contributors, CC BY 4.0."
SHOWN_SIDE = 96  # pixels that a picture of 48 is enlarged to
GRID_SIDE = 640  # largest side of the drawings


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="whose conversations are shown")
    parser.add_argument("--split", default="test")
    args = parser.parse_args(argv)
    found = json.loads((args.workdir / "figures.json").read_text())
    sections = [figures(found), conversations(found, named_split(args.split, 48), args.seed)]
    drawings = args.workdir / f"one_model_{args.seed}" / "drawn.png"
    if drawings.exists():
        sections.append(drawn(drawings))
    lead = tag(
        "p",
        "A small language model learned from nothing to answer questions about emoji, from six "
        "drawing styles. It is asked about a seventh, which nothing here was trained on. What it "
        "reads of a picture differs; size, steps and questions are the same.",
    )
    lead = [lead, tag("p", tag("small", CREDIT))]
    title = "What does a language model see?"
    args.output.write_text(render_page(title, [tag("h1", title), *lead], sections, None))
    return 0


def figures(found: Mapping[str, Any]) -> Section:
    """Returns the table: share of right answers, mean over seeds ± its standard error."""
    runs = by_variant(found)
    head = ["reads", "seeds", *COLUMNS]
    rows = [
        [READS[name], f"{len(of)}", *(cell([one.get(c, np.nan) for one in of]) for c in COLUMNS)]
        for name, of in sorted(runs.items(), key=lambda item: VARIANTS.index(item[0]))
    ]
    lead = (
        "The share of answers that are right word for word, on pictures in the held-out style; "
        "“style” is asked of pictures of things that were not seen. Half of the right answers to "
        "questions of yes or no are yes."
    )
    return Section("figures", "Right answers", lead, table(head, rows, "Right answers"))


def conversations(found: Mapping[str, Any], parts: EmojiSplit, seed: int) -> Section:
    """Returns the same questions with the answers of every model of a seed."""
    names = [name for name in VARIANTS if f"{name}_{seed}" in found]
    models = {name: found[f"{name}_{seed}"]["answers"] for name in names}
    images = {kind: held_out_questions(parts, kind)[0].images for kind in KINDS}
    cards = []
    for said in zip(*models.values(), strict=True):
        kind, picture, question, right, _ = said[0]
        answers = {READS[name]: one[-1] for name, one in zip(models, said, strict=True)}
        cards.append(_card(images[kind][picture], question, right, answers))
    lead = "Questions drawn at random, not chosen by their answers. Right answers are in bold."
    return Section("conversations", "Conversations", lead, tag("div", cards, class_="named"))


def drawn(path: pathlib.Path) -> Section:
    """Returns what one model drew of names."""
    image = np.asarray(PIL.Image.open(path).convert("RGB"))
    picture = tag("img", src=data_uri(image, GRID_SIDE), alt="36 small drawings", class_="sharp")
    lead = "What the model that also draws makes of “draw” and a name, guided with scale 2."
    return Section("drawings", "Drawings", lead, scroll_box(picture, "Drawings"))


def _card(image, question, right, answers) -> Markup:
    enlarged = np.repeat(np.repeat(image, SHOWN_SIDE // len(image), 0), SHOWN_SIDE // len(image), 1)
    lines = [
        tag("tr", tag("th", name, scope="row"), tag("td", _marked(said, said == right)))
        for name, said in answers.items()
    ]
    text = tag("div", tag("figcaption", question, tag("small", f" ({right})")), tag("table", lines))
    return tag("figure", tag("img", src=data_uri(enlarged, SHOWN_SIDE), alt=right), text)


def _marked(text, is_right):
    return tag("strong", text) if is_right else text


if __name__ == "__main__":
    sys.exit(main())
