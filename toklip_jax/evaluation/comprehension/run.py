"""Asks a model a benchmark's questions, batch by batch, on any number of hosts.

Each host asks its share, and all of them get all answers. Every call has as many questions, so that
a compiled model meets one shape, and every host makes as many calls, so that one model over the
devices of all hosts can be asked.
"""

import functools
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.batches import read_together
from toklip_jax.evaluation.comprehension.answers_file import AnswersFolder
from toklip_jax.evaluation.comprehension.base import Benchmark, Question, QuestionSet
from toklip_jax.evaluation.comprehension.registry import kind_of
from toklip_jax.evaluation.comprehension.scoring import BenchmarkResult, score
from toklip_jax.parallel.hosts import call_on_all, gather_from_hosts, is_main_host
from toklip_jax.parallel.progress import Progress

logger = logging.getLogger(__name__)
MAX_NEW_TOKENS = 128  # LLaVA's own limit; the answers asked for are words and letters


@runtime_checkable
class AnswersQuestions(Protocol):
    """A model that can be asked."""

    def answer(
        self,
        images: Sequence[np.ndarray | None],
        questions: Sequence[str],
        *,
        max_new_tokens: int,
    ) -> list[str]:
        """Returns one answer for each question.

        Args:
            images: uint8 RGB [h, w, 3] of any size, or None for a question about no image.
            questions: the prompts, without a placeholder for the image and without a chat template.
            max_new_tokens: the longest answer.
        """
        ...


class _Batch(NamedTuple):
    """Questions of one call, and what fills it up: `images` and `prompts` may be longer."""

    questions: list[Question]
    images: list[np.ndarray | None]
    prompts: list[str]


def evaluate(
    benchmark: Benchmark,
    model: AnswersQuestions,
    directory: str | pathlib.Path,
    *,
    identity: Mapping[str, Any],
    batch_size: int = 8,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> BenchmarkResult:
    """Asks a model all questions of a benchmark, and scores its answers.

    Arguments and errors are those of `ask` and of the benchmark's `read`.
    """
    data = call_on_all(benchmark.read)
    answers = ask(
        benchmark,
        data,
        model,
        directory,
        identity=identity,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    return score(benchmark, data, answers, model=dict(identity), max_new_tokens=max_new_tokens)


def ask(
    benchmark: Benchmark,
    data: QuestionSet,
    model: AnswersQuestions,
    directory: str | pathlib.Path,
    *,
    identity: Mapping[str, Any],
    batch_size: int = 8,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> dict[str, str]:
    """Returns the answers to all questions, key -> answer, the same on every host.

    All hosts must call it. Answers are kept in `directory` as they come, and are not asked for
    again, unless the questions, `identity` or `max_new_tokens` differ.

    Args:
        data: what `benchmark.read()` returned.
        directory: where answers are kept, each model's and benchmark's in a folder of its own.
        identity: what tells the model and how it answers from others, as json can hold it: its
            name, a hash of its weights, its chat template, its sampling if it isn't greedy.
        batch_size: the questions of a call, of each host.

    Raises:
        ValueError: an image that can't be read, kept answers of other questions or that are
            damaged, a model that gives other than one text for each question.
        Preempted: told to stop; what was answered is kept.
    """
    if batch_size < 1 or not identity:
        raise UserError(
            f"expected a batch_size of at least 1 and an identity of the model, got {batch_size} "
            f"and {dict(identity)}: name the model and its weights"
        )
    name = kind_of(benchmark)
    key = {
        "benchmark": name,
        "questions": data.fingerprint(),
        "model": dict(identity),
        "max_new_tokens": max_new_tokens,
    }
    kept = AnswersFolder(directory, key, jax.process_index())
    answers = _joined(gather_from_hosts(call_on_all(kept.read)))
    left = [question for question in data.questions if question.key not in answers]
    if answers and is_main_host():
        logger.info("%d of %d answers are in %s", len(answers), len(data.questions), kept.folder)
    new: dict[str, str] = {}
    num_calls = math.ceil(math.ceil(len(left) / jax.process_count()) / batch_size)
    stream = _batches(left, num_calls, batch_size)
    with Progress(name, num_calls, 0) as progress:
        for batch in read_together(stream):
            texts = model.answer(batch.images, batch.prompts, max_new_tokens=max_new_tokens)
            new.update(call_on_all(functools.partial(_keep, kept, texts, batch)))
            progress.advance()
    return _joined([answers, *gather_from_hosts(new)])


def _batches(left: Sequence[Question], num_calls: int, batch_size: int) -> Iterator[_Batch]:
    """Yields this host's batches, filled up with its last question, or the first of all."""
    mine = left[jax.process_index() :: jax.process_count()]
    for start in range(0, num_calls * batch_size, batch_size):
        questions = list(mine[start : start + batch_size])
        images = [question.image and question.image.read() for question in questions]
        prompts = [question.prompt for question in questions]
        if not questions:
            images, prompts = [left[0].image and left[0].image.read()], [left[0].prompt]
        missing = batch_size - len(prompts)
        yield _Batch(questions, images + images[-1:] * missing, prompts + prompts[-1:] * missing)


def _keep(kept: AnswersFolder, texts: Any, batch: _Batch) -> list[tuple[str, str]]:
    """Writes (key, answer) of the questions that count, and returns them."""
    is_right = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
    if not is_right or len(texts) != len(batch.prompts):
        found = f"{len(texts)} of them" if is_right else f"a {type(texts).__name__} of others"
        raise UserError(
            f"expected the model's answer to return a list of {len(batch.prompts)} texts, got "
            f"{found}: return one text for each question"
        )
    pairs = [(q.key, text) for q, text in zip(batch.questions, texts, strict=False)]
    kept.append(pairs)
    return pairs


def _joined(parts) -> dict[str, str]:
    """Returns the answers of all parts together; hosts that share a disk read the same ones."""
    answers: dict[str, str] = {}
    for part in parts:
        for key, answer in part.items():
            if answers.setdefault(key, answer) != answer:
                raise UserError(
                    f"expected one answer to each question, got two to {key!r} from different "
                    f"hosts: delete the answers that one of them kept"
                )
    return answers
