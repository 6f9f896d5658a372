"""POPE: whether an object is in an image (Li et al., arXiv:2305.10355)."""

import dataclasses
import glob
import os
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.data.paths import expand
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
    read_json_lines,
    values_of,
)
from toklip_jax.evaluation.comprehension.prompts import SHORT_FORM, short_answer
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import POPECounts

FILES = "coco_pope_*.json"
WHAT = "questions of POPE (coco_pope_random.json and the like, a json object a line)"
MEAN = "mean of the sets"
LABELS = ("yes", "no")
FIELDS = {"question_id": KEY, "image": str, "text": str, "label": object}


@dataclasses.dataclass(frozen=True)
class POPE(Benchmark):
    """Evaluates yes or no to "Is there a <object> in the image?".

    Each line of a file is {"question_id", "image", "text", "label"}, the label "yes" or "no".

    Attributes:
        questions: the folder of `coco_pope_*.json`, or files or a pattern of them.
        images: the folder of COCO's val2014 images.
    """

    questions: str
    images: str

    about: ClassVar[str] = "Whether an object is in the image."

    def read(self) -> QuestionSet:
        folder = local_folder(self.images, "images of COCO's val2014")
        paths = self._paths()
        questions = [question for path in paths for question in _read(path, folder)]
        return QuestionSet(tuple(questions), ", ".join(map(_set_of, paths)))

    @property
    def prompt(self) -> str:
        return SHORT_FORM

    @property
    def rule(self) -> str:
        return "POPE: a negation in the first sentence is no, all else yes; yes is positive"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        rows = []
        for name, part in by_group(answered).items():
            counts = POPECounts.from_answers(
                [answer for _, answer in part], [question.reference for question, _ in part]
            )
            rows.append({"set": name, **counts.compute(), "questions": len(part)})
        if len(rows) > 1:  # papers give this mean of accuracy or of F1
            figures = [name for name in rows[0] if name not in ("set", "questions")]
            means = {name: sum(row[name] for row in rows) / len(rows) for name in figures}
            rows.append({"set": MEAN, **means, "questions": len(answered)})
        return rows

    def _paths(self):
        if not os.path.isdir(os.path.expanduser(self.questions)):
            return expand(self.questions)
        folder = local_folder(self.questions, WHAT)
        if found := sorted(glob.glob(os.path.join(glob.escape(folder), FILES))):
            return found
        raise UserError(f"expected {FILES} in {folder}, found none: check the folder")


def _set_of(path):
    """Returns "adversarial" of coco_pope_adversarial.json."""
    return os.path.splitext(os.path.basename(path))[0].rpartition("pope_")[2]


def _read(path, folder):
    name = _set_of(path)
    for number, row in enumerate(read_json_lines(path, WHAT), 1):
        where = f"line {number} of {path}"
        key, image, text, label = values_of(row, FIELDS, where)
        if label not in LABELS:
            raise UserError(
                f"expected the label yes or no in {where}, got {printable(label)!r}: correct it"
            )
        yield Question(
            f"{name}/{key}", short_answer(text), image_in(folder, image), label, group=name
        )
