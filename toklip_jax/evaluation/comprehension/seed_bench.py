"""SEED-Bench: four options about images and frames (Li et al., arXiv:2307.16125)."""

import dataclasses
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.core.printable import printable
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
from toklip_jax.evaluation.comprehension.prompts import OPTIONS_FORM, lettered, option_letter
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import is_same_letter

WHAT = "questions of SEED-Bench (SEED-Bench.json)"
FIELDS = {
    "question_id": KEY,
    "question_type_id": int,
    "data_type": str,
    "data_id": str,
    "question": str,
    "answer": str,
}
CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
IMAGE, VIDEO = "image", "video"
NO_FRAMES = "a question about a video, of which no frames are given"


@dataclasses.dataclass(frozen=True)
class SEEDBench(Benchmark):
    """Evaluates SEED-Bench-1's 12 dimensions, 9 of images and 3 of videos.

    The file is {"questions": [...], "question_type": name -> number}; a question has "question_id",
    "question_type_id", "data_type" ("image" or "video"), "data_id", "question", "choice_a" to
    "choice_d" and "answer", a letter.

    Attributes:
        questions: the file.
        images: the folder of CC3M's images, `SEED-Bench-image`; "data_id" is the file's name.
        video_frames: a folder with a frame of each video as `<question_id>.png`, such as its middle
            one, by which LLaVA-1.5 asks; how its own frames are named was not checked. Without it,
            questions about videos are skipped, as papers that give the images' accuracy do.
    """

    questions: str
    images: str
    video_frames: str | None = None

    about: ClassVar[str] = "Which of four options is right, about images and frames of videos."

    def read(self) -> QuestionSet:
        content = read_json(self.questions, WHAT)
        rows, types = values_of(
            content, {"questions": list, "question_type": dict}, f"{self.questions} ({WHAT})"
        )
        names = {number: name for name, number in types.items()}
        folders = {IMAGE: local_folder(self.images, "images of SEED-Bench")}
        if self.video_frames:
            folders[VIDEO] = local_folder(self.video_frames, "frames of SEED-Bench's videos")
        questions, skipped = [], 0
        for number, row in enumerate(records(rows, self.questions, WHAT), 1):
            question = _question(row, folders, names, f"question {number} of {self.questions}")
            questions += [question] if question else []
            skipped += question is None
        return QuestionSet(
            tuple(questions),
            "images and frames of videos" if self.video_frames else "images",
            {NO_FRAMES: skipped} if skipped else {},
        )

    @property
    def prompt(self) -> str:
        return OPTIONS_FORM

    @property
    def rule(self) -> str:
        return "SEED-Bench: the letter and nothing else"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        rows = [share_row("all", _right(answered))]
        kinds = {kind: [pair for pair in answered if pair[0].details["kind"] == kind]
                 for kind in (IMAGE, VIDEO)}  # fmt: skip
        rows += [share_row(kind, _right(part)) for kind, part in kinds.items() if part]
        return rows + [share_row(name, _right(part)) for name, part in by_group(answered).items()]


def _question(row, folders, names, where):
    """Returns a question, or None where it is about a video without frames."""
    key, group, kind, image, text, answer = values_of(row, FIELDS, where)
    options = lettered(values_of(row, CHOICES, where))
    check_name(f"the data_type of {where}", kind, (IMAGE, VIDEO))
    if group not in names:
        raise UserError(f"expected a question_type_id of {sorted(names)} in {where}, got {group}")
    if answer not in options:
        raise UserError(
            f"expected an answer of {''.join(options)} in {where}, got {printable(answer)!r}"
        )
    if kind not in folders:
        return None
    name = image if kind == IMAGE else f"{key}.png"
    return Question(
        str(key),
        option_letter(text, options),
        image_in(folders[kind], name),
        answer,
        group=names[group],
        details={"kind": kind},
    )


def _right(answered):
    return [is_same_letter(answer, question.reference) for question, answer in answered]
