"""Bad samples: the exception that says why, and the count of them that stops a run."""

import collections
import logging
from collections.abc import Iterable
from typing import Any

from toklip_jax.core.errors import UserError

logger = logging.getLogger(__name__)

Problem = tuple[str, str]  # a sample's name, such as "00012.tar:000123456", and the cause
_NAMES_PER_CAUSE = 20  # in a report; the log names every one
_LONGEST_NAME = 300  # characters shown


class BadSample(Exception):
    """A sample that cannot be used; raised by sources and transforms, caught by the reader.

    Attributes:
        cause: a short phrase, the same for all samples with this fault; reports count by it.
    """

    def __init__(self, cause: str):
        super().__init__(cause)
        self.cause = cause


class BadSamples:
    """Counts skipped samples by cause, and stops the run above a share.

    What a source leaves out when it is opened is counted too, but it is no part of the share, which
    is one of the samples that were tried.

    It stays in the main process: each batch lists what the workers skipped for it. A sample that is
    skipped again (in another epoch, or as the replacement of another) counts again; the log names
    it once.
    """

    def __init__(self, max_share: float, minimum: int = 1000):
        """Starts with nothing counted.

        Args:
            max_share: largest share of bad samples among all that were tried, in [0, 1].
            minimum: samples tried before the share is checked; one bad sample among the first eight
                says little.

        Raises:
            ValueError: a share outside [0, 1], or a minimum below 1.
        """
        if not 0 <= max_share <= 1 or minimum < 1:
            raise UserError(
                f"expected max_share in [0, 1] and minimum of at least 1, got {max_share} and "
                f"{minimum}"
            )
        self.max_share, self.minimum = max_share, minimum
        self.tried = self.left_out = 0
        self.counts: collections.Counter[str] = collections.Counter()  # by cause
        self._names: dict[Problem, None] = {}  # in the order they came

    def add(self, batch_size: int, skipped: Iterable[Problem]) -> None:
        """Counts a batch; the log names each bad sample the first time.

        Args:
            batch_size: good samples.
            skipped: the batch's `skipped`.

        Raises:
            ValueError: more than `max_share` of at least `minimum` samples are bad; lists them.
        """
        skipped = list(skipped)
        self.tried += batch_size + len(skipped)
        for problem in skipped:
            if problem not in self._names:
                logger.warning("skipped %s: %s", shown(problem[0]), problem[1])
        self._count(skipped)
        if skipped:
            self._check(self.share, self.tried)

    def leave_out(self, problems: Iterable[Problem], good: int) -> None:
        """Counts what a source left out when it was opened.

        Args:
            problems: the source's `problems`.
            good: samples that it has.

        Raises:
            ValueError: more than `max_share` of at least `minimum` are left out; lists them.
        """
        problems = list(problems)
        self.left_out += len(problems)
        self._count(problems)
        if problems:
            self._check(len(problems) / (len(problems) + good), len(problems) + good)

    def _count(self, problems):
        self.counts.update(cause for _, cause in problems)
        self._names.update(dict.fromkeys(problems))

    def _check(self, share, number):
        if number >= self.minimum and share > self.max_share:
            raise UserError(
                f"expected at most {self.max_share:.2%} bad samples, got {self.report()}\n"
                f"fix the data, or raise the share that is allowed"
            )

    @property
    def share(self) -> float:
        """Bad samples among all that were tried."""
        bad = self.counts.total() - self.left_out
        return bad / self.tried if self.tried else 0.0

    def report(self) -> str:
        """Returns a line of totals, then one per cause with its count and names."""
        bad = self.counts.total() - self.left_out
        also = f", and {self.left_out} left out of the data" if self.left_out else ""
        lines = [f"{bad} of {self.tried} samples tried ({self.share:.2%}){also}"]
        for cause, count in self.counts.most_common():
            names = [key for key, its_cause in self._names if its_cause == cause]
            more = len(names) - _NAMES_PER_CAUSE
            tail = f" and {more} more" if more > 0 else ""
            lines.append(
                f"  {cause}: {count}: {', '.join(map(shown, names[:_NAMES_PER_CAUSE]))}{tail}"
            )
        return "\n".join(lines)


def name_left_out(source: Any) -> None:
    """Logs what a source left out when it was opened."""
    for key, cause in getattr(source, "problems", []):
        logger.warning("left out %s: %s", shown(key), cause)


def shown(name: str) -> str:
    """Returns a sample's name without control characters: names come from files."""
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
