"""MME: perception and cognition by pairs of yes and no (Fu et al., arXiv:2306.13394)."""

import dataclasses
import functools
import operator
import os
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.core.printable import printable
from toklip_jax.data.paths import expand_home
from toklip_jax.evaluation.comprehension.base import (
    Answered,
    Benchmark,
    Question,
    QuestionSet,
    by_group,
)
from toklip_jax.evaluation.comprehension.files import (
    local_folder,
    read_lines,
    read_table,
    table_images,
)
from toklip_jax.evaluation.comprehension.pictures import ImageFile
from toklip_jax.evaluation.comprehension.prompts import SHORT_FORM, short_answer
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import MMECounts

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = PERCEPTION + COGNITION
REQUEST = "Please answer yes or no."  # at the end of each question of the files
PROMPTS = {"short": SHORT_FORM, "original": f"<question> {REQUEST}"}
LABELS = ("yes", "no")
EXTENSIONS = (".jpg", ".png", ".jpeg")
PER_IMAGE = 2  # questions
WHAT = "MME's tasks (MME_Benchmark_release_version), or a table MME.tsv"


@dataclasses.dataclass(frozen=True)
class MME(Benchmark):
    """Evaluates MME's 14 tasks, two questions about each image, one of them answered by no.

    `path` is the folder that has one for each task, with `<image>.txt` of two lines
    "question<TAB>Yes" beside `<image>.jpg`, or in `questions_answers_YN/` beside `images/`. It may
    also be VLMEvalKit's table, with the columns index, image (base64), question, category and
    answer; the form of that table was not checked against a copy of it.

    Attributes:
        path: the folder, or the table.
        prompt_form: "short", as LLaVA-1.5 asks, without the questions' own last sentence (from what
            is known of its file `llava_mme.jsonl`, which was not read); or "original".
    """

    path: str
    prompt_form: str = "short"

    about: ClassVar[str] = "Perception and cognition, by questions of yes or no."

    def __post_init__(self):
        check_name("prompt_form", self.prompt_form, PROMPTS)

    def read(self) -> QuestionSet:
        path = expand_home(self.path)
        questions = tuple(self._of_table(path) if path.endswith(".tsv") else self._of_folder(path))
        for name, part in by_group([(question, "") for question in questions]).items():
            images = [question.details["image"] for question, _ in part]
            if odd := [image for image in images if images.count(image) != PER_IMAGE]:
                raise UserError(
                    f"expected {PER_IMAGE} questions about each image of {name}, got "
                    f"{images.count(odd[0])} about {printable(odd[0])}: download the files again"
                )
        missing = [task for task in TASKS if not any(q.group == task for q in questions)]
        return QuestionSet(questions, f"{len(TASKS) - len(missing)} of {len(TASKS)} tasks")

    @property
    def prompt(self) -> str:
        return PROMPTS[self.prompt_form]

    @property
    def rule(self) -> str:
        return "MME: yes or no in the first four letters; score = 100 (accuracy + accuracy_plus)"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        groups = by_group(answered)
        rows = []
        for task in (task for task in TASKS if task in groups):
            texts = [answer for _, answer in groups[task]]
            labels = [question.reference for question, _ in groups[task]]
            images = [question.details["image"] for question, _ in groups[task]]
            figures = MMECounts.from_answers(texts, labels, images).compute()
            rows.append({"set": task, **figures, "questions": len(texts)})
        totals = (("perception", PERCEPTION), ("cognition", COGNITION))
        return rows + [row for name, tasks in totals for row in _total(name, tasks, rows)]

    def _of_folder(self, path):
        folder = local_folder(path, WHAT)
        tasks = [task for task in TASKS if os.path.isdir(os.path.join(folder, task))]
        if not tasks:
            raise UserError(f"expected folders such as {TASKS[0]} in {folder}, found none: {WHAT}")
        for task in tasks:
            texts, images = _folders_of(os.path.join(folder, task))
            for name in sorted(os.listdir(texts)):
                if name.endswith(".txt"):
                    yield from self._of_text(task, os.path.join(texts, name), images)

    def _of_text(self, task, path, images):
        stem = os.path.splitext(os.path.basename(path))[0]
        image = _image_of(images, stem)
        for number, line in enumerate(read_lines(path, WHAT)):
            text, _, label = line.strip().rpartition("\t")
            where = f"line {number + 1} of {path}"
            yield self._question(f"{task}/{stem}/{number}", text, label, where, task, stem, image)

    def _of_table(self, path):
        rows = read_table(path, WHAT, ("index", "image", "question", "category", "answer"))
        for row, image in zip(rows, table_images(rows, path), strict=True):
            where = f"row {printable(row['index'])} of {path}"
            task = check_name(f"the category of {where}", row["category"], TASKS)
            yield self._question(
                row["index"], row["question"], row["answer"], where, task, image.identity(), image
            )

    def _question(self, key, text, label, where, task, name, image):
        if label.strip().lower() not in LABELS or not text.strip():
            raise UserError(
                f"expected a question and Yes or No in {where}, got {printable(label)!r}: correct "
                f"it"
            )
        if self.prompt_form == "short":
            text = short_answer(text.strip().removesuffix(REQUEST).strip())
        return Question(
            key, text, image, label.strip().lower(), group=task, details={"image": name}
        )


def _total(name, tasks, rows):
    """Yields the row of a sum of tasks, where all of them are there."""
    scores = {row["set"]: row for row in rows}
    if all(task in scores for task in tasks):
        values = [scores[task]["score"] for task in tasks]
        count = sum(scores[task]["questions"] for task in tasks)
        # From left to right, as the published script adds.
        yield {"set": name, "score": functools.reduce(operator.add, values), "questions": count}


def _folders_of(task):
    """Returns the folders of a task's texts and images."""
    texts, images = os.path.join(task, "questions_answers_YN"), os.path.join(task, "images")
    return (texts, images) if os.path.isdir(texts) else (task, task)


def _image_of(folder, stem):
    paths = [os.path.join(folder, stem + extension) for extension in EXTENSIONS]
    return ImageFile(next(filter(os.path.isfile, paths), paths[0]))
