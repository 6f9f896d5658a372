"""A conversation about images: turns of text with placeholders, and the images they stand for."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample

IMAGE = "<image>"  # the placeholder of an image in a turn's text, as LLaVA writes it
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)

UNKNOWN_ROLE = "an unknown role"
LATE_SYSTEM = "a system turn after the first"
NO_ANSWER = "no assistant turn"
PLACEHOLDERS = "another number of <image> than of images"


class BadConversation(UserError, BadSample):
    """A conversation that can't be used: an error where one is asked for, else a counted skip.

    Attributes:
        cause: a short phrase, the same for all conversations with this fault.
    """

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: one of `ROLES`.
        text: its text; each `<image>` in it stands for one of the conversation's images.
    """

    role: str
    text: str


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Turns, and the images that their placeholders stand for, in order.

    Attributes:
        turns: what is said. Only the first may be the system's.
        images: for each placeholder an image, in a form that the loader of the images takes: a path
            (str), the index of a row of a source (int), or the image's ids (a sequence).
        name: what reports call it.
        task_type: the task of an evaluation's row; "" in training.

    Raises:
        BadConversation: an unknown role, a system turn that isn't the first, or another number of
            placeholders than of images.
    """

    turns: tuple[Turn, ...]
    images: tuple[Any, ...] = ()
    name: str = ""
    task_type: str = ""

    def __post_init__(self):
        where = f" in {self.name}" if self.name else ""
        for place, turn in enumerate(self.turns):
            if turn.role not in ROLES:
                raise BadConversation(
                    UNKNOWN_ROLE, f"expected roles among {list(ROLES)}{where}, got {turn.role!r}"
                )
            if turn.role == SYSTEM and place:
                raise BadConversation(
                    LATE_SYSTEM,
                    f"expected the system's turn first{where}, got it as turn {place}: move it",
                )
        count = sum(turn.text.count(IMAGE) for turn in self.turns)
        if count != len(self.images):
            raise BadConversation(
                PLACEHOLDERS,
                f"expected one {IMAGE} for each image{where}, got {count} for "
                f"{len(self.images)} images: correct its text, or its images",
            )

    @classmethod
    def of(
        cls, turns: Iterable[tuple[str, str]], images: Iterable[Any] = (), **names: str
    ) -> "Conversation":
        """Returns the conversation of (role, text) pairs; errors as the class."""
        return cls(tuple(Turn(role, text) for role, text in turns), tuple(images), **names)

    def expect_answer(self) -> None:
        """Checks that there is something to train on.

        Raises:
            BadConversation: no turn is the assistant's.
        """
        if not any(turn.role == ASSISTANT for turn in self.turns):
            raise BadConversation(
                NO_ANSWER,
                f"expected an assistant's turn in {self.name or 'the conversation'}, got roles "
                f"{[turn.role for turn in self.turns]}: leave it out of the training data",
            )
