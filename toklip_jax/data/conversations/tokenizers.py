"""Text tokenizers of language models as conversations need them: ids, and where each came from."""

import functools
import pathlib
from typing import Any, Protocol, runtime_checkable

from tokenizers import Tokenizer

from toklip_jax.core.errors import UserError
from toklip_jax.data.fingerprints import hash_of
from toklip_jax.data.text import PAD, TextTokenizer, read_tokenizer

Span = tuple[int, int]
PADS = ("<|endoftext|>", PAD)  # Qwen's padding token, and that of this package's tokenizers


@runtime_checkable
class ChatTokenizer(Protocol):
    """Turns a piece of text into ids.

    Attributes:
        pad_id: the id at padding and at image places.
        bos_id: the id that begins a text; None for tokenizers that add none.
        fingerprint: hash of all that the ids depend on.
    """

    pad_id: int
    bos_id: int | None
    fingerprint: str

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Returns ids without special tokens of its own, and the characters [start, end) of each.

        Special tokens that the text spells out become their ids.
        """


class FastTokenizer:
    """A tokenizer of the `tokenizers` library, such as a language model's `tokenizer.json`."""

    def __init__(self, tokenizer: Tokenizer, pad: str | int, bos: str | int | None = None):
        """Wraps a tokenizer.

        Args:
            pad: the padding token, or its id.
            bos: the token that begins a text, or its id; None for models that have none, as Qwen.

        Raises:
            ValueError: a token that it doesn't know.
        """
        self._tokenizer = tokenizer
        self.pad_id = _id_of(tokenizer, pad)
        self.bos_id = None if bos is None else _id_of(tokenizer, bos)

    @classmethod
    def from_file(
        cls, path: str | pathlib.Path, pad: str | int = "<|endoftext|>", bos: str | None = None
    ) -> "FastTokenizer":
        """Reads a `tokenizer.json`, or the one in directory `path`; defaults are Qwen's.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no tokenizer, or doesn't know the tokens.
        """
        return cls(read_tokenizer(path), pad, bos)

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Returns ids and spans; see `ChatTokenizer`."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's file, without white space, and of both ids."""
        return hash_of([self._tokenizer.to_str(), self.pad_id, self.bos_id])


def known_tokenizer(tokenizer: Tokenizer) -> FastTokenizer:
    """Returns Qwen's tokenizer, or one of this package's, as conversations need it.

    Raises:
        ValueError: it has the padding token of neither.
    """
    pads = [pad for pad in PADS if tokenizer.token_to_id(pad) is not None]
    if not pads:
        raise UserError(
            f"expected a text tokenizer with the token {' or '.join(PADS)}, got one without: wrap "
            f"it by FastTokenizer(tokenizer, pad=...)"
        )
    return FastTokenizer(tokenizer, pads[0])


class TransformersTokenizer:
    """A fast tokenizer of `transformers`; has a start token if it puts one before a text."""

    def __init__(self, tokenizer: Any):
        """Wraps a tokenizer.

        Raises:
            ValueError: it has no padding token, or is a slow one, which doesn't say which
                characters a token came from.
        """
        if tokenizer.pad_token_id is None:
            raise UserError(
                "expected a tokenizer with a padding token, got one without: set "
                "tokenizer.pad_token, such as to tokenizer.eos_token"
            )
        if not tokenizer.is_fast:
            raise UserError(
                "expected a fast tokenizer, got a slow one, which doesn't say which characters a "
                "token came from: load it by AutoTokenizer with use_fast=True"
            )
        self._tokenizer = tokenizer
        self.pad_id = int(tokenizer.pad_token_id)
        first = tokenizer("").input_ids[:1]
        self.bos_id = first[0] if first and first[0] == tokenizer.bos_token_id else None

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Returns ids and spans; see `ChatTokenizer`."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found.input_ids, found.offset_mapping

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's content and both ids."""
        content = self._tokenizer.backend_tokenizer.to_str()
        return hash_of([content, self.pad_id, self.bos_id])


def chat_tokenizer(tokenizer: Any) -> ChatTokenizer:
    """Returns a tokenizer as conversations need it.

    Args:
        tokenizer: a `TextTokenizer` (its texts are not cleaned here, nor ended or cut), a fast
            tokenizer of `transformers`, or a `ChatTokenizer`.

    Raises:
        ValueError: none of these.
    """
    if isinstance(tokenizer, ChatTokenizer):
        return tokenizer
    if isinstance(tokenizer, TextTokenizer):
        return FastTokenizer(tokenizer.without_cleaning, PAD)
    if hasattr(tokenizer, "is_fast") and hasattr(tokenizer, "pad_token_id"):
        return TransformersTokenizer(tokenizer)
    raise UserError(
        f"expected a TextTokenizer, a tokenizer of transformers or a ChatTokenizer, got a "
        f"{type(tokenizer).__name__}: wrap one of tokenizers by FastTokenizer(tokenizer, pad=...)"
    )


def _id_of(tokenizer, token):
    found = token if isinstance(token, int) else tokenizer.token_to_id(token)
    if found is None:
        raise UserError(
            f"expected a tokenizer with the token {token!r}, got one without: name its own"
        )
    return found
