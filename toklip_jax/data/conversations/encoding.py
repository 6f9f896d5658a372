"""Conversations as rows of ids and labels, in which each image already has its places."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.conversations.conversation import IMAGE, BadConversation, Conversation
from toklip_jax.data.conversations.templates import Piece, Template
from toklip_jax.data.conversations.tokenizers import ChatTokenizer, chat_tokenizer

IGNORED = -100  # the label of a token that is not trained, as in PyTorch's cross entropy
IMAGE_ID = -200  # LLaVA's stand-in for an image, before it has its places
TEXT_PLACE = -1  # in `image_places`

REFUSE, CUT_TEXT, CUT = "refuse", "cut_text", "cut"
TRUNCATIONS = (REFUSE, CUT_TEXT, CUT)

TOO_LONG = "longer than the maximal length"
CUT_IMAGE = "an image beyond the maximal length"
NOTHING_TRAINED = "no trained token"


@dataclasses.dataclass(frozen=True)
class Row:
    """A conversation as a language model reads it.

    Attributes:
        ids: int32 [t]; the padding's id at the places of images.
        labels: int32 [t]: the id where the model is trained to predict it, else -100. Not shifted:
            `labels[i]` is what position i - 1 has to predict.
        image_places: int32 [t]: k * tokens_per_image + j for token j of the row's image k, else -1.
        images: the row's images, as the conversation has them.
        tokens_per_image: places of each image.
        is_cut: whether its end is missing, as it was longer than it may be.
    """

    ids: Int32[np.ndarray, " t"]
    labels: Int32[np.ndarray, " t"]
    image_places: Int32[np.ndarray, " t"]
    images: tuple[Any, ...]
    tokens_per_image: int
    is_cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def encode_conversation(
    conversation: Conversation,
    tokenizer: Any,
    template: Template,
    tokens_per_image: int,
    *,
    max_length: int | None = None,
    truncation: str = REFUSE,
) -> Row:
    """Returns the row of a conversation to train on.

    The text between images is tokenized whole, as LLaVA's `tokenizer_image_token` does, with the
    tokenizer's start token, if it has one, before all. A token is trained if all its characters
    are.

    Args:
        tokenizer: see `chat_tokenizer`.
        tokens_per_image: places that an image takes.
        max_length: the longest row; None for any length.
        truncation: what happens to longer ones: "refuse"; "cut_text" cuts their end, and refuses
            those that would lose an image or a part of one; "cut" cuts anything, as LLaVA does.

    Raises:
        BadConversation: a row that is too long, or has nothing that is trained; what the template
            refuses.
        ValueError: a marker of the template isn't one token of the tokenizer.
    """
    tokenizer = chat_tokenizer(tokenizer)
    conversation.expect_answer()
    ids, labels = tokenize_pieces(template.pieces(conversation), tokenizer, template)
    row = place_images(ids, labels, conversation.images, tokens_per_image, tokenizer.pad_id)
    if max_length is not None:
        row = truncate(row, max_length, truncation, conversation.name)
    if not np.any(row.labels[1:] != IGNORED):  # no position predicts the first token
        raise BadConversation(
            NOTHING_TRAINED,
            f"expected an answer within the row, got none in {conversation.name or 'a row'}: raise "
            f"max_length, or leave the conversation out",
        )
    return row


def encode_prompt(
    conversation: Conversation, tokenizer: Any, template: Template, tokens_per_image: int
) -> Row:
    """Returns the row that asks for the answer to a conversation's last turn, the user's.

    Arguments are those of `encode_conversation`; earlier answers are labelled as in training.

    Raises:
        ValueError: the last turn isn't the user's; what the template or tokenizer refuses.
    """
    tokenizer = chat_tokenizer(tokenizer)
    pieces = template.pieces(conversation, is_prompt=True)
    ids, labels = tokenize_pieces(pieces, tokenizer, template)
    return place_images(ids, labels, conversation.images, tokens_per_image, tokenizer.pad_id)


def tokenize_pieces(
    pieces: Sequence[Piece], tokenizer: ChatTokenizer, template: Template | None = None
) -> tuple[Int32[np.ndarray, " s"], Int32[np.ndarray, " s"]]:
    """Returns the ids of a text, int32 [s], with `IMAGE_ID` for each `<image>`, and their labels.

    Args:
        template: the pieces' template, for its markers and whether it writes the start token; None
            for plain text.

    Raises:
        ValueError: a marker isn't one token.
    """
    for marker in template.markers if template else ():
        _expect_one_token(tokenizer, marker)
    text = "".join(piece.text for piece in pieces)
    trained = np.repeat([p.is_trained for p in pieces], [len(p.text) for p in pieces])
    ids: list[int] = []
    is_kept: list[bool] = []
    if tokenizer.bos_id is not None and not (template and template.has_own_start):
        ids.append(tokenizer.bos_id)
        is_kept.append(False)
    start = 0
    for place, chunk in enumerate(text.split(IMAGE)):
        if place:
            ids.append(IMAGE_ID)
            is_kept.append(False)
        if chunk:
            found, spans = tokenizer.encode(chunk)
            ids += found
            is_kept += [_is_trained(trained, start + a, start + b) for a, b in spans]
        start += len(chunk) + len(IMAGE)
    array = np.array(ids, np.int32)
    return array, np.where(np.array(is_kept, bool), array, np.int32(IGNORED))


def place_images(
    ids: Int32[np.ndarray, " s"],
    labels: Int32[np.ndarray, " s"],
    images: Sequence[Any],
    tokens_per_image: int,
    pad_id: int,
) -> Row:
    """Returns the row of ids in which each `IMAGE_ID` becomes the places of an image.

    Args:
        labels: the ids' labels; an image's places have none.
        images: one for each `IMAGE_ID`.

    Raises:
        ValueError: another number of them; no place for an image.
    """
    if tokens_per_image < 1:
        raise UserError(f"expected tokens_per_image of at least 1, got {tokens_per_image}")
    is_image = ids == IMAGE_ID
    if is_image.sum() != len(images):
        raise UserError(f"expected {is_image.sum()} images for the row's ids, got {len(images)}")
    repeats = np.where(is_image, tokens_per_image, 1)
    is_image = np.repeat(is_image, repeats)
    places = np.full(len(is_image), TEXT_PLACE, np.int32)
    places[is_image] = np.arange(len(images) * tokens_per_image)
    return Row(
        ids=np.where(is_image, pad_id, np.repeat(ids, repeats)).astype(np.int32),
        labels=np.where(is_image, IGNORED, np.repeat(labels, repeats)).astype(np.int32),
        image_places=places,
        images=tuple(images),
        tokens_per_image=tokens_per_image,
    )


def truncate(row: Row, max_length: int, truncation: str, name: str = "") -> Row:
    """Returns the first `max_length` tokens of a row; see `encode_conversation`.

    With "cut" the row keeps all its images, also those that have no place left in it.

    Raises:
        BadConversation: it is longer, and may not be cut.
    """
    check_name("truncation", truncation, TRUNCATIONS)
    if len(row) <= max_length:
        return row
    if truncation == REFUSE:
        cause, problem = TOO_LONG, f"{len(row)}"
    elif truncation == CUT_TEXT and np.any(row.image_places[max_length:] != TEXT_PLACE):
        cause, problem = CUT_IMAGE, f"{len(row)}, which end with an image or a part of one"
    else:
        return dataclasses.replace(
            row,
            ids=row.ids[:max_length],
            labels=row.labels[:max_length],
            image_places=row.image_places[:max_length],
            is_cut=True,
        )
    raise BadConversation(
        cause,
        f"expected at most {max_length} tokens, got {problem}, in {name or 'a row'}: raise "
        f"max_length, or leave the conversation out",
    )


def _is_trained(trained, start, end) -> bool:
    """Whether all characters of a token are trained; one of no character counts with the next."""
    first = min(start, len(trained) - 1)
    return bool(trained[first] and trained[max(end - 1, first)])


def _expect_one_token(tokenizer, marker):
    ids, _ = tokenizer.encode(marker)
    if len(ids) != 1:
        raise UserError(
            f"expected a tokenizer to which the template's marker {marker!r} is one token, got "
            f"{len(ids)} tokens: add it to the tokenizer, choose another template, or "
            f"ending_with(template, marker) with the tokenizer's own"
        )
