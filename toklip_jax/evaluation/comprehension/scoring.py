"""Answers to a score, with the protocol that it was made by, or to a server's file."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.evaluation.comprehension.base import Answered, Benchmark, QuestionSet
from toklip_jax.evaluation.comprehension.registry import kind_of
from toklip_jax.evaluation.results import Result
from toklip_jax.evaluation.tables import results_table


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """The score of one benchmark.

    Attributes:
        rows: the rows of its table; empty where only a server knows the right answers.
        protocol: how it was made: benchmark, split, prompt, rule, the numbers of questions and of
            those skipped, and what the caller adds, such as the model.
    """

    rows: list[dict[str, Any]]
    protocol: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        """Returns what json can hold: estimates as {"value", "error"}, null for NaN."""
        result = Result(self.protocol["benchmark"], self.rows, {}, {}, {})
        return {"rows": result.to_plain()["rows"], "protocol": self.protocol}

    def __str__(self) -> str:
        """Returns the table and the protocol, a line for each of its parts."""
        lines = [f"{name.replace('_', ' ')}: {value}" for name, value in self.protocol.items()]
        table = results_table(self.rows) if self.rows else "scored by the benchmark's server\n"
        return table + "\n" + "\n".join(lines) + "\n"


def score(
    benchmark: Benchmark,
    data: QuestionSet,
    answers: Mapping[str, str],
    **protocol: Any,
) -> BenchmarkResult:
    """Scores answers by the benchmark's rule.

    Args:
        data: what `benchmark.read()` returned.
        answers: key -> answer, of every question.
        protocol: what the result's protocol has in addition, as json can hold it.

    Raises:
        ValueError: a question without an answer, or an answer for no question.
    """
    answered = _answered(data, answers)
    rows = benchmark.figures(answered) if data.has_references else []
    common = {
        "benchmark": kind_of(benchmark),
        "split": data.split,
        "prompt": benchmark.prompt,
        "rule": benchmark.rule,
        "num_questions": len(data.questions),
        "skipped": dict(data.skipped),
    }
    return BenchmarkResult(rows, common | protocol)


def write_submission(
    benchmark: Benchmark, data: QuestionSet, answers: Mapping[str, str], path: str | pathlib.Path
) -> None:
    """Writes the file that the benchmark's server takes; arguments and errors as `score`."""
    benchmark.write_submission(_answered(data, answers), pathlib.Path(path))


def _answered(data, answers) -> Answered:
    known = {question.key for question in data.questions}
    missing = [question.key for question in data.questions if question.key not in answers]
    unknown = [key for key in answers if key not in known]
    for keys, fault in ((unknown, "an answer for no question"), (missing, "none")):
        if keys:
            raise UserError(
                f"expected one answer for each of {len(known)} questions of {data.split}, got "
                f"{fault} for {len(keys)} keys (the first is {printable(keys[0])!r}): are these "
                f"the answers to these files?"
            )
    return [(question, answers[question.key]) for question in data.questions]
