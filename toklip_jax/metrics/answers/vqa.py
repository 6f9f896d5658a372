"""Answers compared with those of several people: VQA's accuracy, and ANLS for texts in images."""

import functools
import operator
from collections.abc import Sequence

from toklip_jax.core.errors import UserError
from toklip_jax.metrics.answers.evalai import evalai_normalised

ANNOTATORS = 10
ENOUGH = 3  # people who gave an answer, for it to be wholly right
LEAST_SIMILARITY = 0.5  # of ANLS


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Returns the accuracy of an answer, in [0, 1], against those of ten people.

    The mean, over the people, of min(1, m / 3), where m of the nine others gave this answer. Both
    sides are normalised by `evalai_normalised`. VQAv2 and TextVQA have the same rule.

    Source: `TextVQAAccuracyEvaluator` of pythia (MMF); Goyal et al., arXiv:1612.00837.

    Raises:
        ValueError: other than ten references.
    """
    if len(references) != ANNOTATORS:
        raise UserError(
            f"expected the answers of {ANNOTATORS} people, got {len(references)}: leave the "
            f"question out, or score it by another rule"
        )
    answer, references = evalai_normalised(answer), [evalai_normalised(r) for r in references]
    count = references.count(answer)
    scores = [min(1.0, (count - (reference == answer)) / ENOUGH) for reference in references]
    # From left to right: since Python 3.12, `sum` rounds otherwise than the published code did.
    return functools.reduce(operator.add, scores) / len(scores)


def anls(answer: str, reference: str) -> float:
    """Returns the normalised Levenshtein similarity in [0, 1], 0 below one half.

    1 - distance / length of the longer text, of both without outer spaces and in lower case. ANLS
    of a question is the largest over its references.

    Source: Biten et al., arXiv:1905.13648. Two empty texts, of which the published code divides by
    zero, are equal here.
    """
    answer, reference = answer.strip().lower(), reference.strip().lower()
    length = max(len(answer), len(reference))
    if length == 0:
        return 1.0
    similarity = 1 - _edit_distance(answer, reference) / length
    return similarity if similarity >= LEAST_SIMILARITY else 0.0


def _edit_distance(first, second):
    """The least number of letters that are inserted, deleted or replaced."""
    distances = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        before, distances = distances, [row]
        for column, other in enumerate(second, 1):
            replaced = before[column - 1] + (letter != other)
            distances.append(min(replaced, before[column] + 1, distances[-1] + 1))
    return distances[-1]
