"""Training batches of conversations, packed: lines of one length, any step on, on any host.

All conversations are tokenized once, to know their lengths, and put into lines by first fit. The
lines are a source like any other, so their order is the pipeline's (`data/pipeline.py`): a function
of the seed and the step number, which is all that has to be saved. Which conversations share a line
stays the same in all epochs.

A line has a fixed number of images, `max_images`, of which those that it has come first; so each
host's images are those of its lines, and shapes never change.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data import pipeline
from toklip_jax.data.conversations.batching import first_fit, pack_rows
from toklip_jax.data.conversations.conversation import BadConversation, Conversation
from toklip_jax.data.conversations.encoding import (
    CUT_TEXT,
    TEXT_PLACE,
    Row,
    encode_conversation,
)
from toklip_jax.data.conversations.images import ImageLoader
from toklip_jax.data.conversations.lengths import Lengths, load_lengths
from toklip_jax.data.conversations.templates import Template
from toklip_jax.data.conversations.tokenizers import chat_tokenizer
from toklip_jax.data.fingerprints import data_fingerprint, hash_of
from toklip_jax.data.health import Problem
from toklip_jax.data.pipeline import Batch
from toklip_jax.data.sources import Source
from toklip_jax.data.transforms import Sample

logger = logging.getLogger(__name__)

TOO_MANY_IMAGES = "more images than a line has"
_OPEN_LINES = 64  # looked at by first fit: a few per cent of padding, in linear time
_LEFT_OUT = 0  # the length of a row that isn't used


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How conversations become rows; arguments as `encode_conversation`'s."""

    tokenizer: Any
    template: Template
    tokens_per_image: int
    max_length: int
    truncation: str = CUT_TEXT

    def __post_init__(self):
        object.__setattr__(self, "tokenizer", chat_tokenizer(self.tokenizer))

    def __call__(self, conversation: Conversation) -> Row:
        return encode_conversation(
            conversation,
            self.tokenizer,
            self.template,
            self.tokens_per_image,
            max_length=self.max_length,
            truncation=self.truncation,
        )

    @property
    def fingerprint(self) -> str:
        """Hash of all that a row depends on besides the conversation."""
        sizes = [self.tokens_per_image, self.max_length, self.truncation]
        return hash_of([self.tokenizer.fingerprint, repr(self.template), sizes])


class PackedSource:
    """Lines of packed conversations, as a data source.

    A sample is a line: `ids`, `labels`, `segment_ids`, `positions` and `image_places`, int32 [t],
    as `pack_rows` gives them; the images' arrays [m, ...] under their loader's name, with zeros
    after the line's own; `image_mask` bool [m].

    Attributes:
        problems: name and cause of each conversation that is left out: those that its source left
            out, and those that can't be encoded. `data.health` counts them by cause.
        num_cut: how many conversations were longer than a line: the end of their text is cut.
        max_images: m.
        fill: the share of the lines' places that conversations take.
    """

    def __init__(
        self,
        conversations: Any,
        encoder: Encoder,
        loader: ImageLoader,
        *,
        max_images: int,
        seed: int = 0,
        strict: bool = False,
        lengths: str | os.PathLike[str] | None = None,
    ):
        """Tokenizes all conversations, and packs them.

        Args:
            conversations: a source of them, such as `LlavaSource`.
            encoder: its `max_length` is the length of a line.
            loader: reads the images when a line is read.
            max_images: images of a line.
            seed: of the order in which conversations are put into lines.
            strict: raise for the first conversation that can't be encoded.
            lengths: a file (`.npz`) where the rows' lengths are kept, so that the next start of the
                same data, tokenizer and template doesn't tokenize all of them again.

        Raises:
            ValueError: no conversation can be used.
            BadConversation: with `strict`, one that can't be encoded.
        """
        self._conversations, self._encoder, self._loader = conversations, encoder, loader
        self.max_images = max_images
        found = _measured(conversations, encoder, max_images, strict, lengths)
        sizes, counts, self.num_cut = found.tokens, found.images, found.num_cut
        self.problems: list[Problem] = [*getattr(conversations, "problems", []), *found.problems]
        kept = np.flatnonzero(sizes != _LEFT_OUT)
        if not len(kept):
            raise UserError(
                f"expected conversations to train on, got none of {len(conversations)}: "
                f"{sorted({cause for _, cause in found.problems})}"
            )
        if self.num_cut:
            logger.warning(
                "%s of %s conversations are longer than %s tokens; the end of their text is cut",
                self.num_cut,
                len(kept),
                encoder.max_length,
            )
        order = np.random.default_rng(seed).permutation(kept)
        lines = first_fit(
            sizes[order].tolist(),
            encoder.max_length,
            counts[order].tolist(),
            max_images,
            max_open=_OPEN_LINES,
        )
        self._rows = order[np.concatenate(lines)]
        self._starts = np.cumsum([0, *map(len, lines)])
        self.fill = float(sizes[kept].sum() / (len(lines) * encoder.max_length))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Sample:
        """Returns a line.

        Raises:
            BadSample: one of its images can't be read.
        """
        rows = [self._encoder(self._conversations[i]) for i in self._line(index)]
        line = pack_rows(
            rows,
            self._encoder.max_length,
            self._encoder.tokenizer.pad_id,
            num_lines=1,
            max_images=self.max_images,
        )
        images = line.pop("images")
        arrays = np.zeros((self.max_images, *self._loader.shape), self._loader.dtype)
        for place, image in enumerate(images):
            arrays[place] = self._loader(image)
        mask = line.pop("image_mask")
        sample = {name: array[0] for name, array in line.items()}
        return sample | {self._loader.name: arrays, "image_mask": mask}

    @property
    def places_of_a_line(self) -> int:
        """Places of all images of a line: m * n."""
        return self.max_images * self._encoder.tokens_per_image

    @property
    def image_name(self) -> str:
        """The name of the images' arrays in a batch."""
        return self._loader.name

    def key(self, index: int) -> str:
        """Returns the names of a line's conversations."""
        return ", ".join(self._conversations.key(i) for i in self._line(index))

    def identity(self) -> list[Any]:
        """Returns what the lines depend on."""
        rows = hash_of([self._rows.tolist(), self._starts.tolist()])
        parts = [data_fingerprint(self._conversations), self._loader.identity()]
        return [rows, self._encoder.fingerprint, self.max_images, *parts]

    def _line(self, index) -> list[int]:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a line in [0, {len(self)}), got {index}")
        return self._rows[self._starts[index] : self._starts[index + 1]].tolist()


def conversation_batches(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    start_step: int = 0,
    num_workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Returns an endless iterator of batches of shuffled lines, from any step on.

    Arguments are those of `pipeline.batches`; `batch_size` counts the lines of all hosts.

    Args:
        source: a `PackedSource`, or a `Mixture` of some.

    Returns:
        Batches of this host's b lines: `ids`, `labels`, `segment_ids`, `positions`, `image_places`
        int32 [b, t]; `images` or `image_ids` [b * m, ...] and `image_mask` bool [b * m];
        `image_places` count through the images of all hosts, as their batches are one after
        another. And the lists `keys` and `skipped`.

    Raises:
        ValueError: sizes that don't fit; parts of a mixture whose lines have other shapes.
    """
    parts = getattr(source, "parts", (source,))
    shapes = {(part.image_name, part.places_of_a_line) for part in parts}
    if len(shapes) > 1:
        raise UserError(
            f"expected parts whose lines have the same images, got {sorted(shapes)}: open them "
            f"with the same loader, max_images and tokens_per_image"
        )
    ((image_name, places),) = shapes
    batches = pipeline.batches(
        source,
        None,
        batch_size,
        seed,
        start_step=start_step,
        num_workers=num_workers,
        host=host,
        hosts=hosts,
    )
    first = host * (batch_size // hosts)
    return map(functools.partial(_flatten, name=image_name, places=places, first=first), batches)


def _flatten(batch: Batch, name: str, places: int, first: int) -> Batch:
    """Numbers the places of images through the batch, whose lines' images become one axis."""
    is_text = batch["image_places"] == TEXT_PLACE
    lines = first + np.arange(len(is_text), dtype=np.int32)[:, None]  # [b, 1]
    batch["image_places"] = np.where(is_text, TEXT_PLACE, batch["image_places"] + lines * places)
    images = batch[name]
    batch[name] = images.reshape(-1, *images.shape[2:])  # [b * m, ...]
    batch["image_mask"] = batch["image_mask"].reshape(-1)  # [b * m]
    return batch


def _measured(conversations, encoder, max_images, strict, path) -> Lengths:
    """Returns the lengths in the file `path`, or else measures them and keeps them there."""
    if path is None:
        return _measure(conversations, encoder, max_images, strict)
    path = expand_user(path)
    digest = hash_of([data_fingerprint(conversations), encoder.fingerprint, max_images])
    if not strict and (kept := load_lengths(path, digest)) is not None:
        return kept
    lengths = _measure(conversations, encoder, max_images, strict)
    lengths.save(path, digest)
    return lengths


def _measure(conversations, encoder, max_images, strict) -> Lengths:
    tokens, counts = np.zeros((2, len(conversations)), np.int64)
    num_cut, problems = 0, []
    for i in range(len(conversations)):
        try:
            row = encoder(conversations[i])
            if len(row.images) > max_images:
                raise BadConversation(
                    TOO_MANY_IMAGES,
                    f"expected at most {max_images} images in a line, got {len(row.images)} in "
                    f"{conversations.key(i)}: raise max_images, or leave it out",
                )
            tokens[i], counts[i] = len(row), len(row.images)
            num_cut += row.is_cut
        except BadConversation as error:
            if strict:
                raise
            problems.append((conversations.key(i), error.cause))
    return Lengths(tokens, counts, num_cut, problems)
