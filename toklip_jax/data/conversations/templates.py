"""Templates: what a language model reads of a conversation, and which of it is trained.

A template turns a conversation into pieces of text. What is trained is exactly the assistant's
answers, each with the space before it (which the prompt doesn't end with, so the model has to
write it) and the marker that ends it, where it learns to stop.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from toklip_jax.core.errors import UserError
from toklip_jax.data.conversations.conversation import (
    ASSISTANT,
    IMAGE,
    SYSTEM,
    USER,
    BadConversation,
    Conversation,
    Turn,
)

NOT_ALTERNATING = "turns that don't alternate"
HOLDS_MARKER = "a text that holds a marker of the template"
NO_CAPTION = "not one user turn with images and one answer"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text of a prompt.

    Attributes:
        text: the text, perhaps with placeholders.
        is_trained: whether the model is trained to write it.
    """

    text: str
    is_trained: bool = False


@runtime_checkable
class Template(Protocol):
    """Turns conversations into pieces of text.

    Attributes:
        markers: special tokens of its text. Each has to be one token, and no turn may hold one.
        has_own_start: whether its text begins with the tokenizer's own start token where there is
            one, so that none is put before it.
    """

    markers: tuple[str, ...]
    has_own_start: bool

    def pieces(self, conversation: Conversation, is_prompt: bool = False) -> list[Piece]:
        """Returns the pieces of a whole conversation, or of a prompt for the next answer.

        Args:
            is_prompt: ends with what stands before an answer.

        Raises:
            BadConversation: turns that the template has no form for.
        """


@dataclasses.dataclass(frozen=True)
class TurnTemplate:
    """Fixed text around each turn. A conversation's own system turn replaces the template's.

    Attributes:
        system: the system's text where a conversation has none; "" for none.
        around_system: what stands before and after it.
        around_user: the same for each user turn.
        before_answer: what stands before the assistant's answers; a prompt ends with it.
        space: stands between that and the answer, trained.
        end: the marker that ends an answer, trained.
        after_answer: what follows the marker, not trained.
        between: stands before each user turn but the first.
        is_system_in_user: puts the system's text into the first user turn, before its text.
        markers: see `Template`.
        must_alternate: whether user and assistant have to take turns, beginning with the user.
    """

    system: str
    around_system: tuple[str, str]
    around_user: tuple[str, str]
    before_answer: str
    end: str
    space: str = ""
    after_answer: str = ""
    between: str = ""
    is_system_in_user: bool = False
    markers: tuple[str, ...] = ()
    must_alternate: bool = True
    has_own_start: bool = False

    def pieces(self, conversation: Conversation, is_prompt: bool = False) -> list[Piece]:
        """Returns the pieces of a conversation; see `Template.pieces`."""
        system, turns = _split_system(conversation, self.system)
        expect_no_markers(conversation, self.markers)
        if self.must_alternate:
            _expect_alternating(turns, conversation.name)
        if is_prompt:
            _expect_question(turns, conversation.name)
        text = system.join(self.around_system) if system else ""
        pieces = [] if self.is_system_in_user else [Piece(text)]
        inner = text if self.is_system_in_user else ""
        for place, turn in enumerate(turns):
            if turn.role == USER:
                before, after = self.around_user
                between = self.between if place else ""
                pieces.append(Piece(f"{between}{before}{inner}{turn.text}{after}"))
                inner = ""
            else:
                pieces.append(Piece(self.before_answer))
                pieces.append(Piece(f"{self.space}{turn.text}{self.end}", is_trained=True))
                pieces.append(Piece(self.after_answer))
        if is_prompt:
            pieces.append(Piece(self.before_answer))
        return [piece for piece in pieces if piece.text]


@dataclasses.dataclass(frozen=True)
class CaptionTemplate:
    """LLaVA's template of stage 1: the images, then the caption, and `end`; the caption is trained.

    The user's words are left out, as LLaVA's `preprocess_plain` leaves them out.

    Attributes:
        end: ends a caption, trained.
        markers: see `Template`; `end` where it is a special token.
    """

    end: str = "\n"
    markers: tuple[str, ...] = ()
    has_own_start: bool = False

    def pieces(self, conversation: Conversation, is_prompt: bool = False) -> list[Piece]:
        """Returns the pieces of a conversation; see `Template.pieces`."""
        expect_no_markers(conversation, self.markers)
        turns = [turn for turn in conversation.turns if turn.role != SYSTEM]
        roles = [turn.role for turn in turns]
        wanted = [USER] if is_prompt else [USER, ASSISTANT]
        if roles != wanted or IMAGE not in turns[0].text:
            raise BadConversation(
                NO_CAPTION,
                f"expected a user turn with {IMAGE}{'' if is_prompt else ' and its caption'}, got "
                f"turns of {roles} in {conversation.name or 'a conversation'}: choose another "
                f"template for conversations",
            )
        pieces = [Piece(IMAGE * turns[0].text.count(IMAGE))]
        return pieces if is_prompt else [*pieces, Piece(turns[1].text + self.end, is_trained=True)]


def chatml(system: str = "") -> TurnTemplate:
    """Returns Qwen's ChatML; `<|im_end|>` is trained, the end of the line after it isn't.

    Args:
        system: the system's text where a conversation has none; "" leaves its turn out.
    """
    return TurnTemplate(
        system=system,
        around_system=("<|im_start|>system\n", "<|im_end|>\n"),
        around_user=("<|im_start|>user\n", "<|im_end|>\n"),
        before_answer="<|im_start|>assistant\n",
        end="<|im_end|>",
        after_answer="\n",
        markers=("<|im_start|>", "<|im_end|>"),
        must_alternate=False,
    )


def expect_no_markers(conversation: Conversation, markers: Sequence[str]) -> None:
    """Checks that no text would be taken for the template's own markers.

    Raises:
        BadConversation: one would.
    """
    for turn in conversation.turns:
        for marker in markers:
            if marker in turn.text:
                raise BadConversation(
                    HOLDS_MARKER,
                    f"expected texts without {marker!r}, a marker of the template, got it in a "
                    f"turn of {conversation.name or 'a conversation'}: remove it from the text",
                )


def _split_system(conversation, default) -> tuple[str, tuple[Turn, ...]]:
    turns = conversation.turns
    if turns and turns[0].role == SYSTEM:
        return turns[0].text, turns[1:]
    return default, turns


def _expect_alternating(turns, name):
    for place, turn in enumerate(turns):
        if turn.role != (USER, ASSISTANT)[place % 2]:
            raise BadConversation(
                NOT_ALTERNATING,
                f"expected turns of user and assistant in alternation, got "
                f"{[turn.role for turn in turns]} in {name or 'a conversation'}: join turns of "
                f"one side, or choose another template",
            )


def _expect_question(turns, name):
    if not turns or turns[-1].role != USER:
        raise UserError(
            f"expected a prompt that ends with a user turn, got {[turn.role for turn in turns]} in "
            f"{name or 'a conversation'}: leave its last answer out"
        )
