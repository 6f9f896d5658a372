"""Encodes the images of conversations, and writes both as Parquet for trainers on ids."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.conversations import Conversation
from toklip_jax.data.conversations.images import ImageLoader
from toklip_jax.data.conversations.messages import expect_no_others, write_messages
from toklip_jax.data.health import BadSample, BadSamples
from toklip_jax.parallel.progress import Progress

Tokenize = Callable[[Any], Any]  # images uint8 [b, h, w, 3] to ids [b, n]


def encode_conversations(
    conversations: Any,
    load: ImageLoader,
    tokenize: Tokenize,
    output: str | pathlib.Path,
    *,
    split: str,
    task_type: str = "",
    batch_size: int = 64,
    rows_per_file: int = 16384,
    max_bad_share: float = 0.01,
    host: int = 0,
    hosts: int = 1,
) -> tuple[list[pathlib.Path], BadSamples]:
    """Writes conversations with their images' ids, in files of some rows each.

    Args:
        conversations: a source of them, such as `LlavaSource`.
        load: gives the pixels of their images.
        tokenize: turns pixels into ids.
        output: the directory of the files; a file is written whole or not at all.
        split: "train" or "eval-NAME".
        task_type: of an evaluation.
        batch_size: images that are tokenized at once.
        host: this host's number of `hosts`; it writes every `hosts`-th file.

    Returns:
        This host's files; and the conversations that were left out, by cause.

    Raises:
        ValueError: more than `max_bad_share` of them are left out, or, on a single host, all; other
            files of the split in `output`; what `write_messages` refuses.
    """
    if batch_size < 1 or rows_per_file < 1:
        raise UserError(
            f"expected a batch_size and rows_per_file of at least 1, got {batch_size} and "
            f"{rows_per_file}"
        )
    bad = BadSamples(max_bad_share)
    bad.leave_out(getattr(conversations, "problems", []), len(conversations))
    number = -(-len(conversations) // rows_per_file)
    shards = [f"{file:05}-of-{number:05}" for file in range(number)]
    expect_no_others(output, split, shards)
    starts = {file: file * rows_per_file for file in range(host, number, hosts)}
    ranges = {f: range(s, min(s + rows_per_file, len(conversations))) for f, s in starts.items()}
    written = []
    with Progress("encode", sum(map(len, ranges.values())), unit="conversation") as progress:
        for file, inside in ranges.items():
            rows = _encoded(conversations, inside, load, tokenize, batch_size, bad, progress)
            rows = (dataclasses.replace(row, task_type=task_type) for row in rows)
            if hosts == 1 and file == max(ranges):  # one of several may have few, all of them bad
                rows = _expecting_some(rows, bad)
            written.append(write_messages(rows, output, split, shard=shards[file]))
    return written, bad


def _expecting_some(rows: Iterator[Conversation], bad: BadSamples) -> Iterator[Conversation]:
    """Yields rows, and raises a ValueError at their end if all samples so far were bad."""
    yield from rows
    if bad.share == 1:
        raise UserError(f"expected conversations whose images can be read, got {bad.report()}")


def _encoded(
    conversations, indices, load, tokenize, batch_size, bad: BadSamples, progress: Progress
) -> Iterator[Conversation]:
    """Yields the conversations of good images, in order, with ids in their place."""
    waiting: list[Conversation] = []
    pixels: list[np.ndarray] = []
    for index in indices:
        conversation = conversations[index]
        progress.advance()
        try:
            pixels += [load(image) for image in conversation.images]
        except BadSample as error:
            bad.add(0, [(conversations.key(index), error.cause)])
            continue
        bad.add(1, [])
        waiting.append(conversation)
        if len(pixels) >= batch_size:
            yield from _with_ids(waiting, pixels, tokenize, batch_size)
            waiting, pixels = [], []
    yield from _with_ids(waiting, pixels, tokenize, batch_size)


def _with_ids(conversations, pixels, tokenize, batch_size) -> Iterator[Conversation]:
    ids: list[tuple[int, ...]] = []
    for start in range(0, len(pixels), batch_size):
        images = np.stack(pixels[start : start + batch_size])
        filling = np.zeros((batch_size - len(images), *images.shape[1:]), images.dtype)
        found = np.asarray(tokenize(np.concatenate([images, filling])))[: len(images)]
        if found.ndim != 2:
            raise UserError(
                f"expected a tokenizer of one id a place, got {found.shape[-1]}: this layout has "
                f"one list of ids an image"
            )
        ids += map(tuple, found.tolist())
    for conversation in conversations:
        count = len(conversation.images)
        yield dataclasses.replace(conversation, images=tuple(ids[:count]))
        del ids[:count]
