"""The interface of comprehension benchmarks: each reads its files and scores answers by its rule.

A benchmark asks no model itself. It gives questions, each with a key, an image and a prompt;
`run.py` collects the answers, and `scoring.py` hands them back.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.printable import printable
from toklip_jax.data.fingerprints import hash_of
from toklip_jax.evaluation.comprehension.pictures import ImageBytes, ImageFile
from toklip_jax.evaluation.tables import Cell

Answered = Sequence[tuple["Question", str]]  # each question of a set, in order, with its answer


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        key: names it within its benchmark, the same on every machine.
        prompt: all of the text that a user would write, without a placeholder for the image and
            without a chat template: both are the model's own.
        image: the image that it is about; None for a question about no image.
        reference: the right answer, as the benchmark's rule takes it; None where only a server
            knows it.
        group: the part of the benchmark that it belongs to, such as a task or a subject.
        details: what else the rule needs.
    """

    key: str
    prompt: str
    image: ImageFile | ImageBytes | None
    reference: Any = None
    group: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class QuestionSet:
    """The questions that a benchmark's files have.

    Attributes:
        questions: in the order of the files.
        split: the split or files that they are of, for the protocol.
        skipped: cause -> number of questions of the files that are left out.

    Raises:
        ValueError: no questions, two with one key, images that aren't there, or right answers to
            some questions only.
    """

    questions: tuple[Question, ...]
    split: str
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.questions:
            raise UserError(f"expected questions of {self.split}, found none: check its files")
        keys = collections.Counter(question.key for question in self.questions)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise UserError(
                f"expected each question once, got {printable(twice[0])!r} "
                f"{keys[twice[0]]} times (and {len(twice) - 1} others): leave out what is repeated"
            )
        without = [question.key for question in self.questions if question.reference is None]
        if without and self.has_references:
            raise UserError(
                f"expected the right answer to every question of {self.split} or to none, got none "
                f"to {len(without)} (the first is {printable(without[0])!r}): check the files"
            )
        _check_images(self.questions)

    @property
    def has_references(self) -> bool:
        """Says whether the right answers are known here."""
        return any(question.reference is not None for question in self.questions)

    def fingerprint(self) -> str:
        """Returns a hash of all that can change an answer or its score; not of the folders."""
        return hash_of(
            [
                [q.key, q.prompt, q.image and q.image.identity(), q.reference, q.group]
                for q in self.questions
            ]
        )


class Benchmark:
    """Base of the kinds, which are frozen dataclasses of a config section's fields.

    Attributes:
        about: one sentence for the result: what is asked.
    """

    about: ClassVar[str] = ""

    def read(self) -> QuestionSet:
        """Reads the files.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of another form, or as `QuestionSet`.
        """
        raise NotImplementedError

    @property
    def prompt(self) -> str:
        """The form of the prompt, for the protocol."""
        raise NotImplementedError

    @property
    def rule(self) -> str:
        """The rule by which answers are scored, and its form, for the protocol."""
        raise NotImplementedError

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        """Returns rows of a table, each with `set`, the part of the benchmark; shares are of one.

        Every reference is known.
        """
        raise NotImplementedError

    def write_submission(self, answered: Answered, path: pathlib.Path) -> None:
        """Writes the file that the benchmark's server takes.

        Raises:
            ValueError: it has no server.
        """
        raise UserError(
            f"expected a benchmark that a server scores, got {type(self).__name__}: its files have "
            f"the right answers, so score it here"
        )


def by_group(answered: Answered) -> dict[str, list[tuple[Question, str]]]:
    """Returns the answered questions of each group, in order of appearance."""
    groups: dict[str, list[tuple[Question, str]]] = {}
    for question, answer in answered:
        groups.setdefault(question.group, []).append((question, answer))
    return groups


def _check_images(questions: Iterable[Question]):
    absent = [q for q in questions if isinstance(q.image, ImageFile) and not q.image.exists()]
    if absent:
        raise NotFound(
            f"expected an image for every question, found none for {len(absent)} (the first is "
            f"{printable(absent[0].key)!r}, at {absent[0].image.path}): check the images' folder"
        )
