"""Questions of yes or no: POPE's rule and MME's, which read the same text differently."""

import math
from collections.abc import Sequence

import flax.struct

from toklip_jax.core.errors import UserError
from toklip_jax.metrics.state import State

YES, NO, OTHER = "yes", "no", "other"
NEGATIONS = frozenset(("No", "no", "not"))  # POPE's, in these cases only
MME_PREFIX = 4  # letters of an answer that MME searches


def pope_answer(text: str) -> str:
    """Returns "no" where POPE's rule reads a negation in the first sentence, else "yes".

    The sentence ends at the first full stop. Commas are dropped, and words are what stands between
    single spaces, so "no?", "NO", "don't" and an empty text are yes.

    Source: the published script of POPE (Li et al., arXiv:2305.10355), as LLaVA has it.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return NO if NEGATIONS.intersection(words) else YES


def mme_answer(text: str) -> str:
    """Returns "yes", "no" or "other" by MME's rule.

    In lower case, the whole answer, or else the first of "yes" and "no", tried in this order, that
    is within its first four letters: "noted" is no, "eyes" is yes, "I know" is other.

    Source: `calculation.py` of MME (Fu et al., arXiv:2306.13394).
    """
    text = text.lower()
    if text in (YES, NO):
        return text
    return next((word for word in (YES, NO) if word in text[:MME_PREFIX]), OTHER)


@flax.struct.dataclass
class POPECounts(State):
    """Counts of POPE's answers, "yes" being the positive class."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @classmethod
    def empty(cls) -> "POPECounts":
        return cls(0, 0, 0, 0)

    @classmethod
    def from_answers(cls, answers: Sequence[str], labels: Sequence[str]) -> "POPECounts":
        """Counts answers, any texts, against labels; one other than "no" is taken for yes.

        Raises:
            ValueError: they differ in number. The published script drops what is over.
        """
        _check_lengths(answers, labels)
        pairs = [
            (pope_answer(answer), label) for answer, label in zip(answers, labels, strict=True)
        ]
        said_yes = [label for answer, label in pairs if answer == YES]
        said_no = [label for answer, label in pairs if answer == NO]
        return cls(
            true_positives=len(said_yes) - said_yes.count(NO),
            false_positives=said_yes.count(NO),
            true_negatives=said_no.count(NO),
            false_negatives=len(said_no) - said_no.count(NO),
        )

    def compute(self) -> dict[str, float]:
        """Returns `accuracy`, `precision`, `recall`, `f1` and `yes_ratio`, shares of one.

        A share of nothing is NaN, as is what depends on it; the published script ends there with
        a division by zero.
        """
        positives = self.true_positives + self.false_positives
        count = positives + self.true_negatives + self.false_negatives
        precision = _share(self.true_positives, positives)
        recall = _share(self.true_positives, self.true_positives + self.false_negatives)
        return {
            "accuracy": _share(self.true_positives + self.true_negatives, count),
            "precision": precision,
            "recall": recall,
            "f1": _share(2 * precision * recall, precision + recall),
            "yes_ratio": _share(positives, count),
        }


@flax.struct.dataclass
class MMECounts(State):
    """Counts of one MME task: its questions, and its images, which have two questions each."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    others: int
    images: int
    images_right: int

    @classmethod
    def empty(cls) -> "MMECounts":
        return cls(0, 0, 0, 0, 0, 0, 0)

    @classmethod
    def from_answers(
        cls, answers: Sequence[str], labels: Sequence[str], images: Sequence[str]
    ) -> "MMECounts":
        """Counts answers, any texts, against labels "yes" and "no", in any case.

        Args:
            images: the image of each question; questions of an image need not follow each other.

        Raises:
            ValueError: they differ in number, or a label is neither.
        """
        _check_lengths(answers, labels)
        _check_lengths(images, labels)
        labels = [label.lower() for label in labels]
        if unknown := sorted(set(labels) - {YES, NO}):
            raise UserError(f"expected labels yes and no, got {unknown[0]!r}: correct it")
        pairs = list(zip(map(mme_answer, answers), labels, strict=True))
        is_right: dict[str, bool] = {}
        for image, (answer, label) in zip(images, pairs, strict=True):
            is_right[image] = is_right.get(image, True) and answer == label
        return cls(
            true_positives=pairs.count((YES, YES)),
            false_positives=pairs.count((YES, NO)),
            true_negatives=pairs.count((NO, NO)),
            false_negatives=pairs.count((NO, YES)),
            others=sum(answer == OTHER for answer, _ in pairs),
            images=len(is_right),
            images_right=sum(is_right.values()),
        )

    def compute(self) -> dict[str, float]:
        """Returns a task's figures; those of no questions are NaN.

        `accuracy` is over questions, `accuracy_plus` over images with all questions right; both are
        shares of one, and others count as wrong. `score` is 100 times their sum. `precision` and
        `recall` leave the others out, and are 0 where they have nothing to divide by, as in the
        published script.
        """
        true = self.true_positives
        right = true + self.true_negatives
        count = right + self.false_positives + self.false_negatives + self.others
        accuracy, plus = _share(right, count), _share(self.images_right, self.images)
        return {
            "accuracy": accuracy,
            "accuracy_plus": plus,
            "score": 100 * accuracy + 100 * plus,
            "precision": _share(true, true + self.false_positives, of_nothing=0.0),
            "recall": _share(true, true + self.false_negatives, of_nothing=0.0),
        }


def _share(part, whole, of_nothing=math.nan):
    return part / whole if whole else of_nothing


def _check_lengths(first, second):
    if len(first) != len(second):
        raise UserError(
            f"expected as many answers as labels, got {len(first)} and {len(second)}: give both in "
            f"the order of the questions"
        )
