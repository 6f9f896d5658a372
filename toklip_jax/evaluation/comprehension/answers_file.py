"""Answers on disk, line by line as they come, so that an interrupted evaluation can resume."""

import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from toklip_jax.core.errors import UserError

logger = logging.getLogger(__name__)
NAME_LENGTH = 16  # letters of the hash in a folder's name


class AnswersFolder:
    """The answers to one set of questions by one model, a file of json lines for each host.

    The folder is named by a hash of its identity: the questions, the model, and how it is asked. So
    other answers are never found in it. The first line of a file is its identity, for people and as
    a check; each further one is {"key", "answer"}.
    """

    def __init__(self, directory: str | pathlib.Path, identity: Mapping[str, Any], host: int = 0):
        """Names the folder in `directory`; nothing is written yet.

        Args:
            identity: all that answers depend on, as json can hold it; `benchmark` names them.
            host: the number of this process, whose answers have a file of their own.

        Raises:
            ValueError: json can't hold the identity.
        """
        try:
            self._head = json.dumps({"identity": identity}, sort_keys=True) + "\n"
        except TypeError as error:
            raise UserError(
                f"expected an identity of texts, numbers, lists and mappings ({error}): name the "
                f"model by its path or a hash"
            ) from None
        name = hashlib.sha256(self._head.encode()).hexdigest()[:NAME_LENGTH]
        self.folder = pathlib.Path(directory) / f"{identity['benchmark']}-{name}"
        self._path = self.folder / f"answers-{host:05}.jsonl"
        self._is_begun = False

    def read(self) -> dict[str, str]:
        """Returns the answers of all hosts that are there, by key.

        A last line that was cut off counts as not written.

        Raises:
            ValueError: a file of another identity, one that is damaged before its end, or two
                answers to a question that differ.
        """
        answers: dict[str, str] = {}
        for path in sorted(self.folder.glob("answers-*.jsonl")):
            for key, answer in self._read_file(path):
                if answers.setdefault(key, answer) != answer:
                    raise UserError(
                        f"expected one answer to each question in {self.folder}, got two to "
                        f"{key!r}: delete the folder, and ask again"
                    )
        return answers

    def append(self, answers: Iterable[tuple[str, str]]) -> None:
        """Adds answers, (key, answer), to this host's file, and waits until they are on disk."""
        rows = ({"key": key, "answer": answer} for key, answer in answers)
        text = "".join(json.dumps(row) + "\n" for row in rows)  # ASCII: no other line breaks
        if not self._is_begun:
            text = self._begin() + text
        with self._path.open("a", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _begin(self):
        """Cuts off what an interrupted run left of a line; returns the head that is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            size = len(_whole_lines(self._path))
            file.truncate(size)
        self._is_begun = True
        return "" if size else self._head

    def _read_file(self, path):
        head, *lines = _whole_lines(path).decode("utf-8", "replace").split("\n")
        if head and head + "\n" != self._head:
            raise UserError(
                f"expected answers of the same questions, model and settings in {path}, got those "
                f"of others: delete the file, or name another directory"
            )
        for number, line in enumerate(lines[:-1], 2):
            try:
                row = json.loads(line)
                yield row["key"], row["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path} is damaged in line {number} ({error}): delete the line, and its "
                    f"question is asked again"
                ) from error


def _whole_lines(path: pathlib.Path) -> bytes:
    """Returns a file's content up to its last line break."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]
