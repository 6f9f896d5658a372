"""Questions about emoji and their answers: a data source of kind "emoji_questions" in configs."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from toklip_jax.core.fields import check_name
from toklip_jax.data.conversations import (
    ASSISTANT,
    IMAGE,
    USER,
    Conversation,
    known_tokenizer,
    template_of,
)
from toklip_jax.data.conversations.packed import Encoder, PackedSource
from toklip_jax.data.sources import ARRAYS, SourceKind, register
from toklip_jax.data.text import read_tokenizer
from toklip_jax.demo.emoji import EmojiSet, EmojiSplit, named_split

WHAT, GROUP, COLOUR, STYLE = "what is this", "which group", "which colour", "which style"
IS_THERE = "is there a {}"
DRAW = "draw {}"
KINDS = ("name", "yes or no", "group", "colour", "style")
YES, NO = "yes", "no"
TEMPLATE = "short"
UNCONDITIONAL = 0.1  # share of requests to draw that say nothing, what guidance leads away from
BACKGROUND = 240  # pixels whose channels are all above it are the white ground
ANCHORS = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (255, 210, 70),
    "green": (90, 170, 70), "blue": (60, 130, 220), "purple": (150, 90, 190),
    "pink": (245, 150, 180), "brown": (130, 85, 60), "black": (40, 40, 45),
    "grey": (150, 155, 160), "white": (235, 238, 240),
}  # fmt: skip


def main_colour(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns the name of the colour that most pixels besides the white ground are nearest to."""
    pixels = image.reshape(-1, 3).astype(np.int32)
    drawn = pixels[pixels.min(1) <= BACKGROUND]
    if not len(drawn):
        return "white"
    anchors = np.array(list(ANCHORS.values()))
    distances = np.square(drawn[:, None] - anchors).sum(-1)
    votes = np.bincount(distances.argmin(1), minlength=len(anchors))
    return list(ANCHORS)[int(votes.argmax())]


class Questioner:
    """Asks about pictures of one set.

    Names that "is there a ..." asks for in vain are, half of the time each, of any other picture,
    or of one in the same subgroup (as POPE's random and adversarial questions).
    """

    def __init__(self, pictures: EmojiSet):
        self.pictures = pictures
        shown = [pictures.concepts[i] for i in np.unique(pictures.concept_ids)]
        self._names = sorted({concept.name for concept in shown})
        self._alike: dict[str, list[str]] = {}
        for concept in shown:
            self._alike.setdefault(concept.subgroup, []).append(concept.name)

    def ask(self, index: int, kind: str, rng: np.random.Generator) -> tuple[str, str]:
        """Returns a question about a picture and its answer.

        Args:
            kind: one of `KINDS`; "yes or no" has either answer equally often.
        """
        if kind == "yes or no":
            return self.is_there(index, bool(rng.random() < 0.5), rng)
        pictures = self.pictures
        concept = pictures.concepts[pictures.concept_ids[index]]
        if kind == "name":
            return WHAT, concept.name
        if kind == "group":
            return GROUP, concept.group
        if kind == "colour":
            return COLOUR, main_colour(pictures.images[index])
        check_name("a kind of question", kind, KINDS)
        return STYLE, pictures.styles[pictures.style_ids[index]].lower()

    def is_there(self, index: int, is_yes: bool, rng: np.random.Generator) -> tuple[str, str]:
        """Returns a question that the answer yes, or no, is right for."""
        concept = self.pictures.concepts[self.pictures.concept_ids[index]]
        if is_yes:
            return IS_THERE.format(concept.name), YES
        alike = [name for name in self._alike.get(concept.subgroup, ()) if name != concept.name]
        others = alike if alike and rng.random() < 0.5 else self._names
        others = [name for name in others if name != concept.name]
        return IS_THERE.format(others[rng.integers(len(others))]), NO


class EmojiConversations:
    """Conversations about pictures: some questions in random order, or a request to draw one.

    The image of each is its picture's index.
    """

    def __init__(self, pictures: EmojiSet, turns: int, draws: int, draw_share: float, seed: int):
        """Draws the conversations.

        Args:
            turns: questions of a conversation, of different kinds.
            draws: conversations about each picture.
            draw_share: the share of conversations that ask for the picture instead.
            seed: of the questions.
        """
        self.pictures, self._turns, self._draws = pictures, turns, draws
        self._draw_share, self._seed = draw_share, seed
        self._questioner = Questioner(pictures)

    def __len__(self) -> int:
        return len(self.pictures) * self._draws

    def __getitem__(self, index: int) -> Conversation:
        """Returns a conversation, the same one each time."""
        picture, rng = index // self._draws, np.random.default_rng((self._seed, index))
        if rng.random() < self._draw_share:
            concept = self.pictures.concepts[self.pictures.concept_ids[picture]]
            request = "" if rng.random() < UNCONDITIONAL else DRAW.format(concept.name)
            turns = [(USER, request), (ASSISTANT, IMAGE)]
            return Conversation.of(turns, [picture], name=self.key(index))
        turns = []
        for kind in rng.permutation(KINDS)[: self._turns]:
            question, answer = self._questioner.ask(picture, str(kind), rng)
            start = "" if turns else f"{IMAGE}\n"
            turns += [(USER, start + question), (ASSISTANT, answer)]
        return Conversation.of(turns, [picture], name=self.key(index))

    def key(self, index: int) -> str:
        """Returns a conversation's name."""
        return f"picture {index // self._draws}, conversation {index % self._draws}"

    def identity(self) -> list[Any]:
        """Returns what the conversations depend on."""
        settings = [self._turns, self._draws, self._draw_share, self._seed]
        return [*settings, EmojiImages(self.pictures).identity()]


class EmojiImages:
    """The pictures of a set by their indices, `images` uint8 [s, s, 3]; an image loader."""

    name, dtype = "images", np.uint8

    def __init__(self, pictures: EmojiSet):
        self.shape = pictures.images.shape[1:]
        self._pictures = pictures

    def __call__(self, image: int) -> UInt8[np.ndarray, "s s 3"]:
        """Returns a picture."""
        return self._pictures.images[image]

    def identity(self) -> list[int]:
        """Returns a checksum of all pictures."""
        images = np.ascontiguousarray(self._pictures.images)
        return [zlib.crc32(images), len(images)]


def open_questions(
    text_tokenizer: str,
    split: str = "test",
    size: int = 48,
    turns: int = 3,
    draws: int = 4,
    draw_share: float = 0.0,
    length: int = 124,
    tokens_per_image: int = 64,
    seed: int = 0,
) -> PackedSource:
    """Opens conversations about the training pictures, each in a line of its own.

    Args:
        text_tokenizer: the demo's `tokenizer.json`.
        split: one of `emoji.SPLITS`.
        size: the side of the pictures in pixels.
        turns, draws, draw_share, seed: see `EmojiConversations`.
        length: tokens of a line.
        tokens_per_image: places that an image takes: the model's.
    """
    pictures = named_split(split, size).train
    template = template_of(TEMPLATE)
    encoder = Encoder(
        known_tokenizer(read_tokenizer(text_tokenizer)), template, tokens_per_image, length
    )
    conversations = EmojiConversations(pictures, turns, draws, draw_share, seed)
    return PackedSource(conversations, encoder, EmojiImages(pictures), max_images=1, seed=seed)


def held_out_questions(split: EmojiSplit, kind: str, seed: int = 0) -> tuple[EmojiSet, list[Any]]:
    """Returns pictures, and for each its questions of a kind with their answers.

    Pictures are those of the held-out style with names that were seen in training; for "style",
    those of the training styles with names that were not. Of "yes or no" each picture has a
    question with either answer.
    """
    check_name("a kind of question", kind, KINDS)
    pictures = split.references if kind == "style" else split.test
    is_unseen = split.is_unseen[split.name_ids(pictures)]
    pictures = pictures.where(is_unseen if kind == "style" else ~is_unseen)
    questioner, rng = Questioner(pictures), np.random.default_rng(seed)

    def ask(index) -> Sequence[tuple[str, str]]:
        if kind == "yes or no":
            return [questioner.is_there(index, is_yes, rng) for is_yes in (True, False)]
        return [questioner.ask(index, kind, rng)]

    return pictures, [ask(i) for i in range(len(pictures))]


QUESTIONS = register(SourceKind("emoji_questions", open_questions, ARRAYS, size="size"))
