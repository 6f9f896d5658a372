"""VQAv2: short answers compared with those of ten people (Goyal et al., arXiv:1612.00837)."""

import dataclasses
import json
import pathlib
from typing import Any, ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.core.whole_files import write_whole
from toklip_jax.evaluation.comprehension.base import (
    Answered,
    Benchmark,
    Question,
    QuestionSet,
    by_group,
)
from toklip_jax.evaluation.comprehension.files import (
    KEY,
    image_in,
    local_folder,
    read_json,
    records,
    values_of,
)
from toklip_jax.evaluation.comprehension.prompts import SHORT_FORM, short_answer
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import ANNOTATORS, evalai_normalised, vqa_accuracy

WHAT = "questions of VQAv2 (v2_OpenEnded_mscoco_val2014_questions.json)"
ANNOTATIONS = "answers of VQAv2 (v2_mscoco_val2014_annotations.json)"
FIELDS = {"question_id": KEY, "image_id": int, "question": str}
ANSWERED = {"question_id": KEY, "answer_type": str, "answers": list}
RULE = "VQA: the mean over ten people of min(1, m / 3), m others agreeing; EvalAI's normalisation"


@dataclasses.dataclass(frozen=True)
class VQAv2(Benchmark):
    """Evaluates VQA's accuracy on val2014, or writes EvalAI's file for test-dev and test.

    The questions' file is {"data_subtype": "val2014", "questions": [{"question_id", "image_id",
    "question"}]}; that of the annotations is {"annotations": [{"question_id", "answer_type",
    "answers": [{"answer"}]}]}, with ten answers each. An image is
    `COCO_<subtype>_<id with 12 digits>.jpg`; "test-dev2015" is a part of "test2015".

    Attributes:
        questions: the file of the questions.
        images: the folder of the images.
        annotations: the file of the answers; without it EvalAI scores.
        submission_questions: the file of all questions that the submission has to have, such as
            those of test2015 for test-dev: others than those asked get an empty answer, as LLaVA
            submits them.
    """

    questions: str
    images: str
    annotations: str | None = None
    submission_questions: str | None = None

    about: ClassVar[str] = "Short answers, compared with those of ten people."

    def read(self) -> QuestionSet:
        folder = local_folder(self.images, "images of COCO")
        subtype, rows = _read_questions(self.questions)
        answers = _read_answers(self.annotations) if self.annotations else {}
        prefix = f"COCO_{subtype.replace('test-dev', 'test')}_"
        questions = []
        for number, row in enumerate(rows, 1):
            where = f"question {number} of {self.questions}"
            key, image, text = values_of(row, FIELDS, where)
            if self.annotations and key not in answers:
                raise UserError(
                    f"expected the answers to every question in {self.annotations}, found none for "
                    f"{key}: are both files of one split?"
                )
            kind, references = answers.get(key, ("", None))
            name = f"{prefix}{image:012d}.jpg"
            questions.append(
                Question(str(key), short_answer(text), image_in(folder, name), references, kind)
            )
        return QuestionSet(tuple(questions), subtype)

    @property
    def prompt(self) -> str:
        return SHORT_FORM

    @property
    def rule(self) -> str:
        return RULE if self.annotations else f"EvalAI's server; {RULE}"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        groups = {"all": answered} | by_group(answered)
        return [share_row(name, vqa_scores(part)) for name, part in groups.items()]

    def write_submission(self, answered: Answered, path: pathlib.Path) -> None:
        """Writes [{"question_id", "answer"}], the answers normalised, as LLaVA submits them."""
        found = {question.key: evalai_normalised(answer) for question, answer in answered}
        source = self.submission_questions or self.questions
        wanted = [
            values_of(row, {"question_id": KEY}, f"question {number} of {source}")[0]
            for number, row in enumerate(_read_questions(source)[1], 1)
        ]
        if absent := set(found) - {str(key) for key in wanted}:
            raise UserError(
                f"expected every question that was asked in {source}, found none of "
                f"{len(absent)} (such as {min(absent)}): name the file of the whole test"
            )
        rows = [{"question_id": key, "answer": found.get(str(key), "")} for key in wanted]
        write_whole(path, json.dumps(rows))


def vqa_scores(answered: Answered) -> list[float]:
    """Returns VQA's accuracy of each answer, in [0, 1]."""
    return [vqa_accuracy(answer, question.reference) for question, answer in answered]


def ten_answers(texts: Any, where: str) -> list[str]:
    """Returns the answers of ten people, checked before a model is asked.

    Raises:
        ValueError: another number of them, or what are no texts.
    """
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not is_list or len(texts) != ANNOTATORS:
        raise UserError(
            f"expected the answers of {ANNOTATORS} people in {where}, got "
            f"{len(texts) if is_list else printable(repr(texts), 40)}: leave the question out"
        )
    return texts


def _read_questions(path) -> tuple[str, list[Any]]:
    content = read_json(path, WHAT)
    subtype, rows = values_of(content, {"data_subtype": str, "questions": list}, f"{path} ({WHAT})")
    return subtype, records(rows, path, WHAT)


def _read_answers(path):
    rows = values_of(read_json(path, ANNOTATIONS), ("annotations",), f"{path} ({ANNOTATIONS})")[0]
    found = {}
    for number, row in enumerate(records(rows, path, ANNOTATIONS), 1):
        where = f"annotation {number} of {path}"
        key, kind, answers = values_of(row, ANSWERED, where)
        texts = ten_answers([values_of(x, {"answer": str}, where)[0] for x in answers], where)
        if key in found:
            raise UserError(f"expected each question once in {path}, got {key} twice")
        found[key] = kind, texts
    return found
