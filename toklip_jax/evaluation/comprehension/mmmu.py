"""MMMU: questions of college exams (Yue et al., arXiv:2311.16502)."""

import ast
import dataclasses
import pathlib
import random
from collections.abc import Mapping
from typing import Any, ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.core.printable import printable
from toklip_jax.core.whole_files import write_json
from toklip_jax.data.paths import expand
from toklip_jax.data.sources.table_files import read_parquet
from toklip_jax.evaluation.comprehension.base import (
    Answered,
    Benchmark,
    Question,
    QuestionSet,
    by_group,
)
from toklip_jax.evaluation.comprehension.files import local_file
from toklip_jax.evaluation.comprehension.pictures import ImageBytes
from toklip_jax.evaluation.comprehension.prompts import (
    OPTION_LETTER,
    SHORT_FORM,
    lettered,
    short_answer,
)
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import is_open_answer_right, mmmu_letter

WHAT = "MMMU's tables (validation-00000-of-00001.parquet of each subject)"
COLUMNS = ("id", "question", "options", "answer", "question_type", "image_1", "image_2")
CHOICE = "multiple-choice"
UNKNOWN = "?"  # the answer in the test split
SEED = 42  # of the published script
FALLBACKS = ("random", "wrong")
DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": (
        "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy "
        "Public_Health"
    ),
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": (
        "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power "
        "Materials Mechanical_Engineering"
    ),
}


@dataclasses.dataclass(frozen=True)
class MMMU(Benchmark):
    """Evaluates MMMU's validation split, 900 questions of 30 subjects, or writes the test's file.

    The tables are Hugging Face's, one for each subject: id ("validation_Art_1"), question, options
    (a list, written as a Python literal), answer, question_type ("multiple-choice" or "open"), and
    image_1 to image_7 ({bytes, path}). The names of the columns are from public code that reads
    them; no table itself was at hand.

    The model sees image_1 alone, and the marks "<image 1>" stay in the text, both as in MMMU's
    script for LLaVA-1.5; the result counts the questions that have further images.

    Attributes:
        tables: the files, as a pattern, such as "/data/MMMU/*/validation-*.parquet".
        fallback: what an answer without an option counts as: "random", a choice as the published
            script draws it, here with its seed in the order of the questions; or "wrong".
    """

    tables: str
    fallback: str = "random"

    about: ClassVar[str] = "Questions of college exams, with options or open."

    def __post_init__(self):
        check_name("fallback", self.fallback, FALLBACKS)

    def read(self) -> QuestionSet:
        questions = [q for path in expand(self.tables) for q in _read(local_file(path, WHAT))]
        splits = sorted({question.key.split("_")[0] for question in questions})
        return QuestionSet(tuple(questions), ", ".join(splits))

    @property
    def prompt(self) -> str:
        choices = f"<question>\\n(A) <option>\\n...\\n\\n{OPTION_LETTER}"
        return f"{choices}, or {SHORT_FORM}; of several images the first"

    @property
    def rule(self) -> str:
        return f"MMMU's parsing; an answer without an option is {self.fallback}"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        letters = self._letters(answered)
        right = {
            question.key: letters[question.key] == question.reference
            if question.key in letters
            else is_open_answer_right(answer, question.reference)
            for question, answer in answered
        }
        groups = {
            name: [right[q.key] for q, _ in part] for name, part in by_group(answered).items()
        }
        rows = [share_row("all", list(right.values()))]
        rows[0]["several_images"] = sum(q.details["several_images"] for q, _ in answered)
        for discipline, subjects in DISCIPLINES.items():
            part = [value for name in subjects.split() for value in groups.get(name, [])]
            rows += [share_row(f"{discipline}, all", part)] if part else []
        return rows + [share_row(name, part) for name, part in groups.items()]

    def write_submission(self, answered: Answered, path: pathlib.Path) -> None:
        """Writes {id: letter, or the answer to an open question}, as MMMU's evaluation takes it."""
        letters = self._letters(answered)
        write_json(path, {q.key: letters.get(q.key, answer) or "" for q, answer in answered})

    def _letters(self, answered) -> dict[str, str | None]:
        """Returns the option of each answer to a question that has some."""
        draws = random.Random(SEED)
        letters = {}
        for question, answer in answered:
            if options := question.details["options"]:
                letter = mmmu_letter(answer, options)
                if letter is None and self.fallback == "random":
                    letter = draws.choice(list(options))
                letters[question.key] = letter
        return letters


def _read(path):
    for number, row in enumerate(read_parquet(path, COLUMNS).to_pylist(), 1):
        yield _question(row, f"row {number} of {path}")


def _question(row: Mapping[str, Any], where: str) -> Question:
    parts = row["id"].split("_")
    if len(parts) < 3:
        raise UserError(f"expected an id such as validation_Art_1 in {where}, got {row['id']!r}")
    has_options = row["question_type"] == CHOICE
    options = lettered(_literal(row["options"], where)) if has_options else {}
    answer = None if row["answer"] == UNKNOWN else row["answer"]
    if has_options and answer is not None and answer not in options:
        raise UserError(
            f"expected an answer of {''.join(options)} in {where}, got {printable(answer)!r}"
        )
    if not has_options and answer is not None and answer.startswith("["):
        answer = _literal(answer, where)
    data = (row["image_1"] or {}).get("bytes")
    if not data:
        raise UserError(f"expected the bytes of image_1 in {where}, found none: is it {WHAT}?")
    return Question(
        row["id"],
        _prompt(row["question"], options),
        ImageBytes(data, where),
        answer,
        group="_".join(parts[1:-1]),
        details={"options": options, "several_images": row["image_2"] is not None},
    )


def _prompt(text, options):
    if not options:
        return short_answer(text)
    lines = "".join(f"({letter}) {option}\n" for letter, option in options.items())
    return f"{text}\n{lines}\n{OPTION_LETTER}"


def _literal(text, where) -> list[str]:
    """Returns a list of texts that is written as in Python."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not value:
        raise UserError(f"expected a list of texts in {where}, got {printable(text)!r}")
    return [str(one) for one in value]
