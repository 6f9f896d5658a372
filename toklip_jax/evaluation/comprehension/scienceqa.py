"""ScienceQA: science questions of schools, half of them with an image (arXiv:2209.09513)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.comprehension.base import Answered, Benchmark, Question, QuestionSet
from toklip_jax.evaluation.comprehension.files import (
    image_in,
    local_folder,
    read_json,
    values_of,
)
from toklip_jax.evaluation.comprehension.prompts import OPTION_LETTER
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import LETTERS, scienceqa_letter

PROBLEMS = "problems of ScienceQA (problems.json)"
SPLITS = "splits of ScienceQA (pid_splits.json)"
FIELDS = {"question": str, "choices": list, "answer": int, "hint": str, "image": str | None}
NO_CONTEXT = "N/A"
NO_IMAGE = "a question without an image"


@dataclasses.dataclass(frozen=True)
class ScienceQA(Benchmark):
    """Evaluates ScienceQA's test split, 4,241 questions, of which 2,017 have an image.

    `problems.json` is an object, id -> {"question", "choices", "answer" (a number from 0), "hint",
    "image" (a file's name or null)}; `pid_splits.json` is split -> list of ids. An image is
    `<images>/<split>/<id>/<image>`.

    The prompt is LLaVA's CQM form (its `convert_sqa_to_llava_base_prompt.py`) with the request for
    a letter. The file of prompts that LLaVA-1.5 was evaluated by was not read.

    Attributes:
        folder: of both files.
        images: the folder that has one for each split.
        split: a split of the file.
        has_only_images: skip questions without an image; else a model gets None for theirs.
    """

    folder: str
    images: str
    split: str = "test"
    has_only_images: bool = False

    about: ClassVar[str] = "Science questions with two to five options."

    def read(self) -> QuestionSet:
        folder = local_folder(self.folder, "problems.json and pid_splits.json of ScienceQA")
        images = local_folder(self.images, "images of ScienceQA")
        path = os.path.join(folder, "problems.json")
        problems = read_json(path, PROBLEMS)
        splits = os.path.join(folder, "pid_splits.json")
        keys = values_of(read_json(splits, SPLITS), {self.split: list}, splits)[0]
        questions, skipped = [], 0
        for key in keys:
            problem = values_of(problems, (key,), path)[0]
            values_of(problem, FIELDS, f"problem {key} of {path}")
            if problem["image"] is None and self.has_only_images:
                skipped += 1
            else:
                questions.append(self._question(key, problem, images, path))
        return QuestionSet(tuple(questions), self.split, {NO_IMAGE: skipped} if skipped else {})

    @property
    def prompt(self) -> str:
        return (
            f"Context: <hint or {NO_CONTEXT}>\\nQuestion: <question>\\nOptions: (A) <option> ...\\n"
            f"{OPTION_LETTER}"
        )

    @property
    def rule(self) -> str:
        return 'ScienceQA: the letter, or "A. ", or one "The answer is A."'

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        parts = {
            "all": answered,
            "with an image": [pair for pair in answered if pair[0].image is not None],
            "without an image": [pair for pair in answered if pair[0].image is None],
        }
        return [share_row(name, _right(part)) for name, part in parts.items() if part]

    def _question(self, key, problem, images, path):
        number, choices = problem["answer"], problem["choices"]
        if not (isinstance(number, int) and 0 <= number < len(choices) <= len(LETTERS)):
            raise UserError(
                f"expected an answer among at most {len(LETTERS)} choices, from 0, in problem "
                f"{key} of {path}, got {number!r} of {len(choices)}"
            )
        name = problem["image"]
        return Question(
            str(key),
            _prompt(problem),
            None if name is None else image_in(images, f"{self.split}/{key}/{name}"),
            LETTERS[number],
            details={"num_choices": len(choices)},
        )


def _prompt(problem: Mapping[str, object]) -> str:
    context = problem["hint"].strip() or NO_CONTEXT
    options = " ".join(
        f"({letter}) {choice}" for letter, choice in zip(LETTERS, problem["choices"], strict=False)
    )
    text = f"Context: {context}\nQuestion: {problem['question']}\nOptions: {options}\n"
    return f"{text.replace('  ', ' ').strip()}\n{OPTION_LETTER}"


def _right(answered):
    return [
        scienceqa_letter(answer, question.details["num_choices"]) == question.reference
        for question, answer in answered
    ]
