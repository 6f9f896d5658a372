"""TextVQA: questions about the text in an image (Singh et al., arXiv:1904.08920)."""

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
    records,
    values_of,
)
from toklip_jax.evaluation.comprehension.prompts import SHORT_ANSWER, SHORT_FORM, short_answer
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.comprehension.vqav2 import RULE, ten_answers, vqa_scores
from toklip_jax.evaluation.tables import Cell

WHAT = "questions of TextVQA (TextVQA_0.5.1_val.json)"
OCR = "tokens of TextVQA's OCR (TextVQA_Rosetta_OCR_v0.2_val.json)"
FIELDS = {"question_id": KEY, "image_id": KEY, "question": str}
REFERENCE = "Reference OCR token: "


@dataclasses.dataclass(frozen=True)
class TextVQA(Benchmark):
    """Evaluates VQA's accuracy on TextVQA's val, 5,000 questions.

    The file is {"data": [{"question_id", "image_id", "question", "answers"}]} with ten answers
    each; an image is `<image_id>.jpg`.

    Attributes:
        questions: the file of the questions.
        images: the folder of the images, `train_images`.
        ocr: {"data": [{"image_id", "ocr_tokens"}]}: a line with the tokens follows the question, as
            in LLaVA-1.5's own prompts. Their tokens are in a file of its own, which was not read,
            so figures with this one's need not equal those published.
    """

    questions: str
    images: str
    ocr: str | None = None

    about: ClassVar[str] = "Short answers about the text in an image."

    def read(self) -> QuestionSet:
        folder = local_folder(self.images, "images of TextVQA")
        tokens = _read_tokens(self.ocr) if self.ocr else None
        rows = values_of(read_json(self.questions, WHAT), ("data",), f"{self.questions} ({WHAT})")[
            0
        ]
        questions = []
        for number, row in enumerate(records(rows, self.questions, WHAT), 1):
            where = f"question {number} of {self.questions}"
            key, image, text = values_of(row, FIELDS, where)
            answers = row.get("answers")
            context = () if tokens is None else (_reference(tokens, image, self.ocr),)
            questions.append(
                Question(
                    str(key),
                    short_answer(text, *context),
                    image_in(folder, f"{image}.jpg"),
                    None if answers is None else ten_answers(answers, where),
                )
            )
        return QuestionSet(tuple(questions), os.path.basename(self.questions))

    @property
    def prompt(self) -> str:
        return f"<question>\\n{REFERENCE}<tokens>\\n{SHORT_ANSWER}" if self.ocr else SHORT_FORM

    @property
    def rule(self) -> str:
        return RULE

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        return [share_row("all", vqa_scores(answered))]


def _read_tokens(path):
    rows = values_of(read_json(path, OCR), ("data",), f"{path} ({OCR})")[0]
    pairs = (
        values_of(row, {"image_id": KEY, "ocr_tokens": list}, f"row {number} of {path}")
        for number, row in enumerate(records(rows, path, OCR), 1)
    )
    return {image: ", ".join(tokens) for image, tokens in pairs}


def _reference(tokens, image, path):
    if image not in tokens:
        raise UserError(f"expected tokens of every image in {path}, found none of {image}")
    return REFERENCE + tokens[image]
