"""Conversations in LLaVA's JSON, over a folder of images or any source whose images have names."""

import json
import os
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.data.conversations.conversation import (
    ASSISTANT,
    IMAGE,
    SYSTEM,
    USER,
    BadConversation,
    Conversation,
    Turn,
)
from toklip_jax.data.fingerprints import data_fingerprint, hash_of
from toklip_jax.data.health import Problem
from toklip_jax.data.paths import expand_home, is_local, join, read_bytes

SIDES = {"human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": SYSTEM}
WRONG_FORM = "a row of another form"
MISSING_IMAGE = "missing image"
_LAYOUT = '[{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt", ...}]}]'


class LlavaSource:
    """The conversations of a JSON file, in its order; rows that can't be used are left out.

    Attributes:
        problems: name and cause of each row that is left out.
    """

    def __init__(
        self,
        path: str,
        images: Any = None,
        *,
        strict: bool = False,
        is_image_first: bool = True,
    ):
        """Reads a file.

        Args:
            path: `[{"id", "image": name or list of names, "conversations": [{"from", "value"}]}]`;
                rows without images have no `image`.
            images: the folder that the names are paths in; or a source with `key(index)`, whose
                keys they are; or a mapping of names to indices of a source. None for text alone.
            strict: raise for the first row that can't be used, instead of leaving it out.
            is_image_first: moves a turn's `<image>`, where it has one, to its beginning, as LLaVA's
                training does ("<image>\\n" and the text without white space around it).

        Raises:
            FileNotFoundError: there is no such file or no such folder.
            ValueError: no such JSON, or no row that can be used.
            BadConversation: with `strict`, a row that can't be used.
        """
        self.path = expand_home(path)
        self._images = _Names(images)
        rows = _read(self.path)
        self.problems: list[Problem] = []
        self._conversations: list[Conversation] = []
        for place, row in enumerate(rows):
            try:
                self._conversations.append(self._conversation(row, place, is_image_first))
            except BadConversation as error:
                if strict:
                    raise
                self.problems.append((_name(row, place), error.cause))
        if not self._conversations:
            causes = sorted({cause for _, cause in self.problems})
            raise UserError(f"expected conversations in {self.path}, got none: {causes or 'empty'}")

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> Conversation:
        return self._conversations[index]

    def key(self, index: int) -> str:
        """Returns the row's id, or its place in the file."""
        return self._conversations[index].name

    def identity(self) -> list[Any]:
        """Returns a hash of all texts and images' names, and what names the images."""
        rows = [[[(t.role, t.text) for t in c.turns], list(c.images)] for c in self._conversations]
        return [hash_of(rows), self._images.identity]

    def _conversation(self, row, place, is_image_first) -> Conversation:
        name = _name(row, place)
        try:
            images = row.get("image") or []
            images = [images] if isinstance(images, str) else images
            pairs = [(SIDES.get(t["from"], t["from"]), t["value"]) for t in row["conversations"]]
            is_text = all(isinstance(text, str) for pair in pairs for text in pair)
            is_fit = is_text and all(isinstance(image, str) for image in images)
        except (KeyError, TypeError, AttributeError):
            is_fit = False
        if not is_fit:
            raise BadConversation(WRONG_FORM, f"expected rows of {_LAYOUT}, got another in {name}")
        if is_image_first:
            pairs = [(role, _image_first(text)) for role, text in pairs]
        turns = tuple(Turn(role, text) for role, text in pairs)
        conversation = Conversation(turns, tuple(images), name)
        conversation.expect_answer()
        found = tuple(self._images.find(image, name) for image in images)
        return Conversation(turns, found, name)


class _Names:
    """Where images of a name are."""

    def __init__(self, images):
        self._folder = self._rows = None
        self.identity: Any = None
        if isinstance(images, str | os.PathLike):
            self._folder = _existing(expand_home(images))
        elif isinstance(images, dict):
            self._rows = images
        elif images is not None:
            if not hasattr(images, "key"):
                raise UserError(
                    f"expected a folder of images or a source with names, got a "
                    f"{type(images).__name__} without key(index): pass a dict of names to indices"
                )
            self._rows = {images.key(i): i for i in range(len(images))}
            self.identity = data_fingerprint(images)

    def find(self, image, name):
        """Returns the path of an image in the folder, or its index in the source."""
        if self._rows is not None and image in self._rows:
            return self._rows[image]
        if self._folder is not None:
            path = join(self._folder, image)
            if not is_local(path) or os.path.isfile(path):
                return path
        where = self._folder or ("the source" if self._rows is not None else "no images")
        raise BadConversation(
            MISSING_IMAGE,
            f"expected the image {image!r} of {name}, found none in {where}: pass the folder or "
            f"source that has it as images, or leave the row out",
        )


def _existing(folder):
    if is_local(folder) and not os.path.isdir(folder):
        raise NotFound(f"expected a folder of images, found none at {folder}: check the path")
    return folder


def _image_first(text):
    if text.count(IMAGE) != 1:
        return text
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()


def _name(row, place):
    found = row.get("id") if isinstance(row, dict) else None
    return str(place) if found is None else str(found)


def _read(path):
    try:
        rows = json.loads(read_bytes(path))
    except FileNotFoundError:
        raise NotFound(f"expected conversations, found no file {path}: check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected JSON of {_LAYOUT} in {path}, got: {error}") from error
    if not isinstance(rows, list):
        raise UserError(f"expected JSON of {_LAYOUT} in {path}, got a {type(rows).__name__}")
    return rows
