"""MMBench: options asked in every order (Liu et al., arXiv:2307.06281)."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.core.printable import printable
from toklip_jax.evaluation.comprehension.base import Answered, Benchmark, Question, QuestionSet
from toklip_jax.evaluation.comprehension.files import has_value, read_table, table_images
from toklip_jax.evaluation.comprehension.prompts import OPTION_LETTER, OPTIONS_FORM, option_letter
from toklip_jax.evaluation.comprehension.rows import share_row
from toklip_jax.evaluation.comprehension.spreadsheet import write_spreadsheet
from toklip_jax.evaluation.tables import Cell
from toklip_jax.metrics.answers import OPTION_FORMS, matched_option

WHAT = "MMBench's table (mmbench_dev_20230712.tsv)"
LETTERS = "ABCD"
ROUNDS = 1_000_000  # between a question's index and that of the same one, its options rotated
REQUESTS = {"en": OPTION_LETTER, "cn": "请直接回答选项字母。"}
# What LLaVA's `convert_mmbench_for_submission.py` leaves out of the table, and where the
# predictions are among what stays.
LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION, PREDICTION_PLACE = "prediction", 6
NO_CATEGORY = "no category"


@dataclasses.dataclass(frozen=True)
class MMBench(Benchmark):
    """Evaluates MMBench's dev split, or writes the spreadsheet that its server takes.

    The table has the columns index, question, hint, A, B, C, D, image (base64), in test splits no
    answer, and category and l2-category, which have figures of their own. A row whose index is
    larger by a million and more is the same question with its options rotated: by CircularEval
    (`circular`) a question is right where all of its rows are; `single` counts first rows alone.

    Attributes:
        table: the file.
        form: one of `OPTION_FORMS`, the published forms of the rule. MMBench's server asks a
            language model where the rule finds no option; here such an answer is wrong, and
            `unmatched` counts them.
        language: "en" or "cn", for the prompt's last line.
    """

    table: str
    form: str = "last_five"
    language: str = "en"

    about: ClassVar[str] = "Which option is right, whatever their order."

    def __post_init__(self):
        check_name("form", self.form, OPTION_FORMS)
        check_name("language", self.language, REQUESTS)

    def read(self) -> QuestionSet:
        rows = self._rows()
        images = table_images(rows, self.table)
        questions = [self._question(row, image) for row, image in zip(rows, images, strict=True)]
        return QuestionSet(tuple(questions), os.path.basename(self.table))

    @property
    def prompt(self) -> str:
        return f"<hint>\\n{OPTIONS_FORM}".replace(OPTION_LETTER, REQUESTS[self.language])

    @property
    def rule(self) -> str:
        return f"VLMEvalKit's matching of options, form {self.form!r}, without a language model"

    def figures(self, answered: Answered) -> list[dict[str, Cell]]:
        matched = [matched_option(a, q.details["options"], self.form) for q, a in answered]
        is_right: dict[int, dict[int, bool]] = {}  # question -> round -> right
        for (question, _), letter in zip(answered, matched, strict=True):
            turn, index = divmod(question.details["index"], ROUNDS)
            is_right.setdefault(index, {})[turn] = letter == question.reference
        for index, rounds in is_right.items():
            if 0 not in rounds:
                raise UserError(
                    f"expected the row {index} of {self.table} with its options in their first "
                    f"order, found rotated ones only: download it again"
                )
        groups = {q.details["index"]: (q.details["level"], q.group) for q, _ in answered}
        rows = [_row("all", is_right)]
        for place, level in ((0, "level"), (1, "category")):
            for name in dict.fromkeys(group[place] for group in groups.values()):
                part = {i: rounds for i, rounds in is_right.items() if groups[i][place] == name}
                rows += [_row(f"{level}: {name}", part)] if part and name != NO_CATEGORY else []
        rows[0]["unmatched"] = matched.count(None)
        return rows

    def write_submission(self, answered: Answered, path: pathlib.Path) -> None:
        """Writes a spreadsheet (.xlsx) of index, question, options, prediction and what else the
        table has, as LLaVA submits it; predictions are the answers as they are.

        Raises:
            ValueError: a path of another ending.
        """
        if path.suffix != ".xlsx":
            raise UserError(
                f"expected a path that ends with .xlsx, got {path}: MMBench takes those"
            )
        rows = self._rows()
        names = [name for name in rows[0] if name not in LEFT_OUT]
        texts = {question.key: answer for question, answer in answered}
        columns = [*names[:PREDICTION_PLACE], PREDICTION, *names[PREDICTION_PLACE:]]
        cells = [[_cell(name, row, texts) for name in columns] for row in rows]
        write_spreadsheet(path, columns, cells)

    def _rows(self):
        return read_table(self.table, WHAT, ("index", "question", "image", *LETTERS))

    def _question(self, row: Mapping[str, str], image) -> Question:
        where = f"row {printable(row['index'])} of {self.table}"
        if not row["index"].isdecimal():
            raise UserError(f"expected a number as the index of {where}")
        options = _options(row)
        if not options:
            raise UserError(f"expected options from A on in {where}, found none")
        answer = row.get("answer")
        if has_value(answer) and answer not in options:
            raise UserError(
                f"expected an answer of {''.join(options)} in {where}, got {printable(answer)!r}"
            )
        hint = row.get("hint")
        text = f"{hint}\n{row['question']}" if has_value(hint) else row["question"]
        return Question(
            row["index"],
            option_letter(text, options, REQUESTS[self.language]),
            image,
            answer if has_value(answer) else None,
            group=row.get("category") or NO_CATEGORY,
            details={
                "index": int(row["index"]),
                "options": options,
                "level": row.get("l2-category") or NO_CATEGORY,
            },
        )


def _options(row):
    """Returns the options up to the first that is missing, as LLaVA reads them."""
    options = {}
    for letter in LETTERS:
        if not has_value(row[letter]):
            break
        options[letter] = row[letter]
    return options


def _row(name, is_right):
    """The figures of some questions, from question -> round -> whether it is right."""
    single = share_row(name, [rounds[0] for rounds in is_right.values()], "single")
    if all(len(rounds) == 1 for rounds in is_right.values()):
        return single  # a table without rotated options
    circular = share_row(name, [all(rounds.values()) for rounds in is_right.values()], "circular")
    return circular | single


def _cell(name, row, texts):
    """A spreadsheet's cell: a number for the index, None for nothing."""
    if name == PREDICTION:
        return texts[row["index"]]
    if not has_value(row[name]):
        return None
    return int(row[name]) if name == "index" else row[name]
