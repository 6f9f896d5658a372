"""The demo's data source: emoji with captions, of kind "emoji" in configs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.sources import ARRAYS, SourceKind, register
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import Sample
from toklip_jax.demo.captions import all_captions, caption_table
from toklip_jax.demo.emoji import EmojiSet, named_split

# The styles whose pictures may be shown.
ATTRIBUTIONS = {"Twtr": "Twemoji, © Twitter, Inc and other contributors, CC BY 4.0"}


class EmojiSource:
    """Samples of `images`, `concept_ids`, `labels`, and `captions` [captions, t] if there are any.

    Attributes:
        classes: names of the groups; a label is a place in it.
        names: the names that the split asks for.
        attribution: whom the pictures are owed to, where that is known of all of them.
    """

    def __init__(
        self,
        emoji: EmojiSet,
        captions: Int32[np.ndarray, "concepts captions t"] | None = None,
        names: Sequence[str] = (),
    ):
        self.images, self.concept_ids, self.captions = emoji.images, emoji.concept_ids, captions
        self.labels, self.classes = emoji.group_ids, emoji.groups
        self.names, self._concepts = tuple(names), emoji.concepts
        styles = {emoji.styles[style] for style in np.unique(emoji.style_ids)}
        is_known = styles <= ATTRIBUTIONS.keys()
        self.attribution = "; ".join(ATTRIBUTIONS[s] for s in sorted(styles)) if is_known else ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        concept_id = self.concept_ids[index]
        sample = {"images": self.images[index], "concept_ids": concept_id}
        sample["labels"] = self.labels[index]
        if self.captions is not None:
            sample["captions"] = self.captions[concept_id]
        return sample

    def title(self, index: int) -> str:
        """Returns the name of what a picture shows."""
        return self._concepts[self.concept_ids[index]].name


def open_emoji(
    split: str = "test",
    part: str = "train",
    size: int = 48,
    num_captions: int = 32,
    seed: int = 0,
    *,
    tokenizer: TextTokenizer | None = None,
) -> EmojiSource:
    """Opens the demo's pictures.

    Args:
        split: one of `emoji.SPLITS`.
        part: "train", "test" or "references".
        size: the side in pixels.
        num_captions: drawn per concept, by `seed`; training picks among them.
    """
    check_name("part", part, ["train", "test", "references"])
    if num_captions < 1 or seed < 0:
        raise UserError(
            f"expected num_captions of at least 1 and a seed of at least 0, got {num_captions} and "
            f"{seed}"
        )
    parts = named_split(split, size)
    pictures = getattr(parts, part)
    table = tokenizer and caption_table(pictures.concepts, tokenizer, num_captions, seed)
    return EmojiSource(pictures, table, parts.names)


def emoji_texts(arguments: Mapping[str, Any]) -> list[str]:
    """Returns captions that hold every word any caption of the training pictures may have."""
    return all_captions(named_split(arguments["split"], arguments["size"]).train.concepts)


EMOJI = register(SourceKind("emoji", open_emoji, ARRAYS, texts=emoji_texts, size="size"))
