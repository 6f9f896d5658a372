"""Questions about images as prompts: the text tokenizer, the template, and arrays to embed."""

import bisect
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image
from tokenizers import Tokenizer

from toklip_jax.api.inputs import SINGLE
from toklip_jax.api.prompts import padded_length
from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.data.conversations import (
    ASSISTANT,
    IMAGE,
    USER,
    CaptionTemplate,
    ChatTemplate,
    Conversation,
    FastTokenizer,
    Row,
    Template,
    batch_rows,
    encode_prompt,
    known_tokenizer,
    template_of,
)
from toklip_jax.data.text import TOKENIZER_FILE, read_tokenizer

UNFINISHED = "\ufffd"  # what decoding gives for a letter of which ids are missing


@dataclasses.dataclass(frozen=True)
class Prompting:
    """How questions become a multimodal model's prompts, and its ids become text.

    Attributes:
        tokenizer: the language model's text tokenizer.
        template: of conversations.
        tokens_per_image: places that an image takes.
    """

    tokenizer: Tokenizer
    template: Template
    tokens_per_image: int

    def __post_init__(self):
        if isinstance(self.template, ChatTemplate):
            _expect_generation_prompt(self.template)

    @property
    def encoder(self) -> FastTokenizer:
        """The tokenizer as conversations need it."""
        return known_tokenizer(self.tokenizer)

    @property
    def end(self) -> str:
        """The text that ends an answer, "" if the template doesn't say."""
        return getattr(self.template, "end", "")

    def stop_ids(self) -> tuple[int, ...]:
        """Returns the last id of the template's end marker, if it is the only or a special one."""
        ids = self.encoder.encode(self.end)[0] if self.end else []
        added = self.tokenizer.get_added_tokens_decoder()
        is_special = bool(ids) and ids[-1] in added and added[ids[-1]].special
        return tuple(ids[-1:]) if len(ids) == 1 or is_special else ()

    def row(self, question: str, count: int, history: Sequence[tuple[str, str]] = ()) -> Row:
        """Returns the prompt of a question about `count` images.

        Args:
            question: its text, with `<image>` for each image, or without any, which puts the images
                before the text.
            history: earlier questions and their answers; the images may stand in them.

        Raises:
            ValueError: another number of `<image>` than of images, or words with a template that
                has none.
        """
        texts = [one for pair in history for one in pair] + [question]
        if isinstance(self.template, CaptionTemplate) and question.replace(IMAGE, "").strip():
            raise UserError(
                f"expected {IMAGE} alone as a question with a template of captions, as 'plain', "
                f"which asks nothing, got {question!r}: pass template=... with another one"
            )
        if not any(IMAGE in text for text in texts) and count:
            texts[0] = f"{IMAGE * count}\n{texts[0]}"
        roles = [(USER, ASSISTANT)[i % 2] for i in range(len(texts))]
        conversation = Conversation.of(zip(roles, texts, strict=True), range(count))
        return encode_prompt(conversation, self.encoder, self.template, self.tokens_per_image)

    def batch(self, rows: Sequence[Row], num_images: int) -> tuple[Any, Any, Any]:
        """Returns (ids, places of images, positions), int32 [b, t], padded on the left.

        Args:
            num_images: of all rows together; places count through them.
        """
        length = padded_length(max(map(len, rows)))
        pad = self.encoder.pad_id
        batch = batch_rows(rows, length, pad, max_images=num_images, side="left")
        positions = np.where(batch["segment_ids"] > 0, batch["positions"], -1)
        return batch["ids"], batch["image_places"], positions.astype(np.int32)

    def text_of(self, ids: Sequence[int]) -> str:
        """Returns the text of drawn ids, up to the template's end marker."""
        ids = list(ids)
        if end := self.end.strip():  # perhaps special tokens, which the text is without
            count = range(len(ids) + 1)
            ids = ids[: bisect.bisect_left(count, True, key=lambda n: end in self._whole(ids[:n]))]
            return self.tokenizer.decode(ids).partition(end)[0].strip()
        text = self.tokenizer.decode(ids).strip()
        return (text.partition(self.end)[0] if self.end else text).strip()

    def _whole(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def pieces(drawn: Iterable[int], prompting: Prompting) -> Iterator[str]:
    """Returns the new text after each id; a letter of several ids comes with the last of them."""
    ids: list[int] = []
    shown = ""
    for one in drawn:
        ids.append(one)
        text = prompting.text_of(ids)
        if text.startswith(shown) and len(text) > len(shown) and not text.endswith(UNFINISHED):
            yield text[len(shown) :]
            shown = text


def group_images(given: Any, ndim: int, count: int) -> list[list[Any]]:
    """Returns the images of each question, or their ids, as lists.

    Args:
        given: for each question one of them, a list of several, or None; or one array of all.
        ndim: axes of one of them.
        count: of the questions.

    Raises:
        ValueError: another number of questions.
    """
    if isinstance(given, SINGLE) or not isinstance(given, Iterable):
        raise UserError(f"expected images for each of {count} questions, got one: pass [image]")
    groups = [_group(one, ndim) for one in given]
    if len(groups) != count:
        raise UserError(
            f"expected images for each of {count} questions, got {len(groups)}: pass None for a "
            f"question without, and a list for one with several"
        )
    return groups


def resizable(images: list[Any], size: Sequence[int]) -> list[Any]:
    """Returns images of one size as they are, else uint8 arrays among them as Pillow images.

    Args:
        images: RGB arrays [h, w, 3], Pillow images, or both.
        size: (height, width) of the model's images.
    """
    if all(getattr(image, "shape", None) == (*size, 3) for image in images):
        return images
    return [
        PIL.Image.fromarray(np.asarray(image)) if _is_picture(image) else image for image in images
    ]


def _is_picture(image):
    is_array = isinstance(image, np.ndarray | jax.Array) and image.dtype == np.uint8
    return is_array and image.ndim == 3 and image.shape[-1] == 3 and image.size > 0


def _group(one, ndim):
    if one is None:
        return []
    axes = _axes(one, ndim)
    if not axes:
        raise UserError(
            f"expected an image, a list of images or None for each question, got {one!r:.60}"
        )
    return [one] if axes == ndim else list(one)


def _axes(one, ndim):
    """How many axes an image or several have; what is in a list may differ in size."""
    if isinstance(one, SINGLE):
        return ndim
    if isinstance(one, list | tuple):
        return 1 + (_axes(one[0], ndim) if one else ndim)
    return np.ndim(one)


def expect_texts(texts: Any, name: str) -> None:
    """Raises ValueError unless `texts`, called `name` in the message, are texts, at least one."""
    is_list = isinstance(texts, Sequence | np.ndarray) and not isinstance(texts, str)
    if not is_list or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"expected a list of {name}, got {texts!r:.100}: pass [{name[:-1]}]")


def find_template(name: str | Template | None, trained_with: str) -> Template:
    """Returns the template of a name, or the one that a model was trained with.

    Raises:
        ValueError: neither says one.
    """
    if isinstance(name, str) or (name is None and trained_with):
        return template_of(name or trained_with)
    if name is None:
        raise UserError(
            "expected the name of a template, as the weights don't say one: pass template=..., "
            "such as 'qwen2.5'"
        )
    return name


def find_tokenizer(directory: pathlib.Path | None) -> Tokenizer:
    """Returns the text tokenizer beside a model's weights.

    Raises:
        FileNotFoundError: there is none.
    """
    if directory is None or not (directory / TOKENIZER_FILE).is_file():
        where = "with these weights" if directory is None else f"in {directory}"
        raise NotFound(
            f"expected the language model's {TOKENIZER_FILE} {where}, found none: pass "
            f"load(..., tokenizer=DIRECTORY)"
        )
    return read_tokenizer(directory / TOKENIZER_FILE)


def _expect_generation_prompt(template):
    """Raises ValueError for a chat template that doesn't say where an answer begins."""
    question = Conversation.of([(USER, "a")])
    whole = Conversation.of([(USER, "a"), (ASSISTANT, "b")])
    prompt = "".join(piece.text for piece in template.pieces(question, is_prompt=True))
    trained = [piece.text for piece in template.pieces(whole) if piece.is_trained]
    text = "".join(piece.text for piece in template.pieces(whole))
    if not trained or text[: text.index(trained[0])] != prompt or prompt.rstrip().endswith("a"):
        raise UserError(
            "expected a chat template with a generation prompt, which says where an answer begins, "
            "got one without: name a template, such as 'qwen2.5'"
        )
