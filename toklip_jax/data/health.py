"""Bad samples: the exception that says why, and the count of them that stops a run."""

import collections
import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)

Problem = tuple[str, str]  # a sample's name, such as "00012.tar:000123456", and the cause
_NAMES_PER_CAUSE = 20  # in a report; the log names every one


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
            raise ValueError(
                f"expected max_share in [0, 1] and minimum of at least 1, got {max_share} and "
                f"{minimum}"
            )
        self.max_share, self.minimum = max_share, minimum
        self.tried = 0
        self.counts: collections.Counter[str] = collections.Counter()  # by cause
        self._names: dict[Problem, None] = {}  # in the order they came

    def add(self, batch_size: int, skipped: Iterable[Problem]) -> None:
        """Counts a batch; the log names each bad sample the first time.

        Args:
            batch_size: good samples; 0 for the problems that a source found when it was opened.
            skipped: the batch's `skipped`, or a source's `problems`.

        Raises:
            ValueError: more than `max_share` of at least `minimum` samples are bad; lists them.
        """
        skipped = list(skipped)
        self.tried += batch_size + len(skipped)
        for key, cause in skipped:
            self.counts[cause] += 1
            if (key, cause) not in self._names:
                self._names[key, cause] = None
                logger.warning("skipped %s: %s", key, cause)
        if skipped and self.tried >= self.minimum and self.share > self.max_share:
            raise ValueError(
                f"expected at most {self.max_share:.2%} bad samples, got {self.report()}\n"
                f"fix the data, or raise the share that is allowed"
            )

    @property
    def share(self) -> float:
        """Bad samples among all that were tried."""
        return self.counts.total() / self.tried if self.tried else 0.0

    def report(self) -> str:
        """Returns a line of totals, then one per cause with its count and names."""
        lines = [f"{self.counts.total()} of {self.tried} samples tried ({self.share:.2%})"]
        for cause, count in self.counts.most_common():
            names = [key for key, its_cause in self._names if its_cause == cause]
            more = len(names) - _NAMES_PER_CAUSE
            tail = f" and {more} more" if more > 0 else ""
            lines.append(f"  {cause}: {count}: {', '.join(names[:_NAMES_PER_CAUSE])}{tail}")
        return "\n".join(lines)
