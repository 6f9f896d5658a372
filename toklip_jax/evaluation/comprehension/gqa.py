"""GQA: short answers about scenes (Hudson and Manning, arXiv:1902.09506)."""

import dataclasses
import os
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.comprehension.base import Answered, Benchmark, Question, QuestionSet
from toklip_jax.evaluation.comprehension.files import (
    KEY,
    image_in,
    local_folder,
    read_json,
    values_of,
)
from toklip_jax.evaluation.comprehension.prompts import SHORT_FORM, short_answer
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import gqa_answer

WHAT = "questions of GQA (testdev_balanced_questions.json)"
FIELDS = {"question": str, "imageId": KEY, "answer": str}
KINDS = ("structural", "semantic")  # of the types that a question has


@dataclasses.dataclass(frozen=True)
class GQA(Benchmark):
    """Evaluates exact answers; papers give the accuracy on testdev_balanced, 12,578 questions.

    The file is an object, question id -> {"question", "imageId", "answer", ...}; "types" is read
    where it is there, and has figures of its own.

    Attributes:
        questions: the file.
        images: the folder of `<imageId>.jpg`.
    """

    questions: str
    images: str

    about: ClassVar[str] = "Short answers about objects, attributes and relations."

    def read(self) -> QuestionSet:
        folder = local_folder(self.images, "images of GQA")
        rows = read_json(self.questions, WHAT)
        if not isinstance(rows, dict):
            raise UserError(
                f"expected an object of question ids in {self.questions}: is it {WHAT}?"
            )
        questions = []
        for key, row in rows.items():
            where = f"question {key} of {self.questions}"
            text, image, answer = values_of(row, FIELDS, where)
            questions.append(
                Question(
                    key,
                    short_answer(text),
                    image_in(folder, f"{image}.jpg"),
                    answer,
                    details=row.get("types") or {},
                )
            )
        return QuestionSet(tuple(questions), os.path.basename(self.questions))

    @property
    def prompt(self) -> str:
        return SHORT_FORM

    @property
    def rule(self) -> str:
        return "GQA: equal in lower case, full stops at the end apart"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        right = [gqa_answer(answer) == question.reference for question, answer in answered]
        rows = [share_row("all", right)]
        for kind in KINDS:
            types = [question.details.get(kind) for question, _ in answered]
            for name in sorted({name for name in types if name}):
                part = [is_right for is_right, found in zip(right, types, strict=True)
                        if found == name]  # fmt: skip
                rows.append(share_row(f"{kind}: {name}", part))
        return rows
