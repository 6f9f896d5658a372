"""A cache of captioned images as conversations in Parquet: one file per shard."""

import dataclasses
import pathlib
from collections.abc import Iterator

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.cache import Header, expect_complete, expect_whole, load_header
from toklip_jax.data.conversations.conversation import ASSISTANT, IMAGE, USER, Conversation
from toklip_jax.data.conversations.messages import (
    TRAIN,
    check_split,
    expect_no_others,
    write_messages,
)
from toklip_jax.data.record_files import read_records

IMAGE_FIRST, TEXT_FIRST, BOTH = "image_first", "text_first", "both"
ORDERS = {IMAGE_FIRST: (IMAGE_FIRST,), TEXT_FIRST: (TEXT_FIRST,), BOTH: (IMAGE_FIRST, TEXT_FIRST)}


@dataclasses.dataclass(frozen=True)
class MessagesLayout:
    """How a cache becomes conversations.

    Attributes:
        order: "image_first", the user's image and the caption as its answer; "text_first", the
            user's caption and the image as its answer; or "both", a row of each.
        split: "train" or "eval-NAME", the beginning of the files' names.
        task_type: the column of that name, of evaluations.

    Raises:
        ValueError: another order or split; a task_type of training, or none of an evaluation.
    """

    order: str = IMAGE_FIRST
    split: str = TRAIN
    task_type: str = ""

    def __post_init__(self):
        check_name("order", self.order, ORDERS)
        if (check_split(self.split) == TRAIN) == bool(self.task_type):
            raise UserError(
                f"expected a task_type for evaluations and none for training, got "
                f"{self.task_type!r} for {self.split}"
            )


def export_messages(
    directory: str | pathlib.Path,
    output: str | pathlib.Path,
    layout: MessagesLayout,
    host: int = 0,
    hosts: int = 1,
) -> tuple[list[pathlib.Path], int]:
    """Writes a finished cache as conversations, each crop of an image in one or two rows.

    Args:
        host: this host's number of `hosts`; each writes every `hosts`-th file.

    Returns:
        The files, each whole or not at all; and how many images were left out, as their captions
        are empty, or hold `<image>`, which is taken for one.

    Raises:
        FileNotFoundError, ValueError: no cache, or one that is not finished; one without captions,
            or with several ids a place; other files of the split in `output`.
    """
    header = load_header(directory)
    if not header.has_captions or header.codes_per_place != 1:
        raise UserError(
            f"expected a cache with captions and one id a place, got "
            f"{'no captions' if not header.has_captions else f'{header.codes_per_place} ids'} in "
            f"{directory}: encode a source of images with texts, or export columns"
        )
    paths = expect_complete(header, directory)
    shards = [f"{number:05}-of-{len(paths):05}" for number in range(len(paths))]
    expect_no_others(output, layout.split, shards)
    written, left_out = [], 0
    for number, path in enumerate(paths):
        if number % hosts != host:
            continue
        records = read_records(path)
        expect_whole(header, records, path)
        good = [record for record in records if _is_good(_caption(header, record))]
        left_out += len(records) - len(good)
        rows = (row for record in good for row in _conversations(header, record, layout))
        written.append(write_messages(rows, output, layout.split, shard=shards[number]))
    return written, left_out


def _conversations(header, record, layout) -> Iterator[Conversation]:
    (field,) = (field for field in header.fields if field.name == "ids")
    caption = _caption(header, record)
    for crop in range(header.crops):
        ids = tuple(field.read(record, crop).tolist())
        for order in ORDERS[layout.order]:
            texts = (IMAGE, caption) if order == IMAGE_FIRST else (caption, IMAGE)
            turns = zip((USER, ASSISTANT), texts, strict=True)
            yield Conversation.of(turns, [ids], task_type=layout.task_type)


def _caption(header: Header, record: bytes) -> str:
    return record[header.record_bytes :].decode()


def _is_good(caption):
    return bool(caption.strip()) and IMAGE not in caption
