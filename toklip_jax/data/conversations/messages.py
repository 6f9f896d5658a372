"""Conversations as Parquet for trainers of language models on ids, such as marin's.

Files are `train-*.parquet` and, for evaluations, `eval-NAME-*.parquet`. Their columns:

    messages       list of {role, content: list of {type: "text" or "image", text}}
    image_tokens   list of lists of int: an image's ids as they are, no offset, one list an image
    task_type      string, of evaluations only

An item of type "image" stands for the next of the row's images; its text is null.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.conversations.conversation import (
    IMAGE,
    BadConversation,
    Conversation,
    Turn,
)
from toklip_jax.data.conversations.llava import WRONG_FORM
from toklip_jax.data.fingerprints import hash_of_file
from toklip_jax.data.health import Problem
from toklip_jax.data.offsets import Offsets
from toklip_jax.data.paths import base_name, expand, expand_home, join, open_file
from toklip_jax.data.sources.table_files import read_parquet

TRAIN = "train"
_EVALUATION = re.compile(r"eval-[^/*?\[\]{}]+")
_COLUMNS = ("messages", "image_tokens")
_ROWS_AT_ONCE = 1024  # written


class MessagesSource:
    """The conversations of a directory's files, in their order; images are lists of ids.

    Rows that can't be used are left out when it is opened.

    Attributes:
        problems: name and cause of each row that is left out.
    """

    def __init__(self, directory: str, split: str = TRAIN, *, strict: bool = False):
        """Opens the files of a split.

        Args:
            directory: a path, or a URL.
            split: "train" or "eval-NAME".
            strict: raise for the first row that can't be used, instead of leaving it out.

        Raises:
            ValueError: no such files; columns that are missing; no row that can be used.
            BadConversation: with `strict`, a row that can't be used.
        """
        self._names = _COLUMNS if check_split(split) == TRAIN else (*_COLUMNS, "task_type")
        self.paths = expand(join(expand_home(directory), f"{split}-*.parquet"))
        self._tables: list[Any] | None = None
        self._offsets = Offsets(len(table) for table in self._read())
        self.problems: list[Problem] = []
        self._rows: list[int] = []
        for row in range(len(self._offsets)):
            try:
                self._conversation(row)
                self._rows.append(row)
            except BadConversation as error:
                if strict:
                    raise
                self.problems.append((self._name(row), error.cause))
        if not self._rows:
            causes = sorted({cause for _, cause in self.problems})
            raise UserError(f"expected conversations in {directory}, got none: {causes or 'empty'}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Conversation:
        return self._conversation(self._rows[index])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": None}  # each process reads the files itself

    def key(self, index: int) -> str:
        """Returns the file's name and the row in it."""
        return self._name(self._rows[index])

    def identity(self) -> list[Any]:
        """Returns the files' hashes."""
        return [hash_of_file(path) for path in self.paths]

    def _name(self, row):
        file, place = self._offsets.place(row)
        return f"{base_name(self.paths[file])}:{place}"

    def _read(self):
        if self._tables is None:
            for path in self.paths:
                _check_columns(path, self._names)
            self._tables = [read_parquet(path, self._names) for path in self.paths]
        return self._tables

    def _conversation(self, row) -> Conversation:
        file, place = self._offsets.place(row)
        table = self._read()[file]
        record = {name: table.column(name)[place] for name in self._names}
        messages, images = (record[name].as_py() or () for name in _COLUMNS)
        turns = tuple(_turn(message, self._name(row)) for message in messages)
        images = tuple(tuple(ids) for ids in images)
        task_type = record["task_type"].as_py() if "task_type" in record else ""
        conversation = Conversation(turns, images, self._name(row), task_type or "")
        conversation.expect_answer()
        return conversation


def write_messages(
    conversations: Iterable[Conversation],
    directory: str | pathlib.Path,
    split: str = TRAIN,
    *,
    shard: str = "00000-of-00001",
) -> pathlib.Path:
    """Writes conversations whose images are lists of ids as one file, whole or not at all.

    Args:
        split: "train" or "eval-NAME"; the latter's rows have the conversations' `task_type`.
        shard: the end of the file's name.

    Raises:
        ValueError: images that are no ids; an evaluation without `task_type`.
    """
    import pyarrow as pa
    import pyarrow.parquet

    check_split(split)
    directory = expand_user(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{split}-{shard}.parquet"
    draft = path.with_name(f".{path.name}")
    schema = _schema(split)
    try:
        with pyarrow.parquet.ParquetWriter(draft, schema) as writer:
            for part in _parts(conversations):
                rows = [_record(conversation, split) for conversation in part]
                writer.write_table(pa.Table.from_pylist(rows, schema))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def expect_no_others(directory: str | pathlib.Path, split: str, shards: Sequence[str]) -> None:
    """Checks that a directory has no other files of a split: readers would take them too.

    Args:
        shards: ends of the names of the files to be written.

    Raises:
        ValueError: it has; names one.
    """
    names = {f"{check_split(split)}-{shard}.parquet" for shard in shards}
    found = {path.name for path in expand_user(directory).glob(f"{split}-*.parquet")}
    if others := sorted(found - names):
        raise UserError(
            f"expected no other files {split}-*.parquet in {directory}, found {others[0]}: choose "
            f"another directory, or remove them"
        )


def check_split(split: str) -> str:
    """Returns a split's name.

    Raises:
        ValueError: it is neither "train" nor "eval-NAME".
    """
    if split != TRAIN and not _EVALUATION.fullmatch(split):
        raise UserError(f"expected a split 'train' or 'eval-NAME', got {split!r}")
    return split


def _schema(split):
    import pyarrow as pa

    item = pa.struct([("type", pa.string()), ("text", pa.string())])
    message = pa.struct([("role", pa.string()), ("content", pa.list_(item))])
    fields = [
        ("messages", pa.list_(message)),
        ("image_tokens", pa.list_(pa.list_(pa.int32()))),
    ]
    return pa.schema(fields + ([] if split == TRAIN else [("task_type", pa.string())]))


def _parts(conversations) -> Iterator[Sequence[Conversation]]:
    part: list[Conversation] = []
    for conversation in conversations:
        part.append(conversation)
        if len(part) == _ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _record(conversation, split):
    if split != TRAIN and not conversation.task_type:
        raise UserError(f"expected a task_type for each row of {split}, got one without: set it")
    images = [np.asarray(image) for image in conversation.images]
    if any(ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) for ids in images):
        raise UserError(
            f"expected images as lists of ids, one a place, in {conversation.name or 'a row'}, got "
            f"others: tokenize them, by a tokenizer of one id a place"
        )
    record = {
        "messages": [
            {"role": turn.role, "content": list(_content(turn.text))} for turn in conversation.turns
        ],
        "image_tokens": [ids.tolist() for ids in images],
    }
    return record if split == TRAIN else record | {"task_type": conversation.task_type}


def _content(text) -> Iterator[dict[str, str | None]]:
    for place, part in enumerate(text.split(IMAGE)):
        if place:
            yield {"type": "image", "text": None}
        if part:
            yield {"type": "text", "text": part}


def _turn(message, name) -> Turn:
    try:
        parts = [(item["type"], item["text"]) for item in message["content"]]
        if all(kind == "image" or (kind == "text" and text is not None) for kind, text in parts):
            text = "".join(IMAGE if kind == "image" else text for kind, text in parts)
            return Turn(message["role"] or "", text)
    except (KeyError, TypeError):
        pass
    raise BadConversation(
        WRONG_FORM,
        f"expected messages of a role and content of type 'text' or 'image', got {message!r:.200} "
        f"in {name}",
    )


def _check_columns(path, names):
    import pyarrow
    import pyarrow.parquet

    with open_file(path) as file:
        try:
            found = pyarrow.parquet.read_schema(file).names
        except pyarrow.ArrowException as error:
            raise UserError(f"expected a Parquet file, got {path}: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"expected the columns {', '.join(names)} in {path}, found {found}, without "
            f"{missing[0]!r}: it has another layout; write it by --parquet-layout=messages"
        )
