"""The length of a training loop, and when it logs, saves and evaluates."""

import dataclasses

from toklip_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """The length of a stage's training, and how often it logs, saves and evaluates.

    Attributes:
        steps: updates in all.
        log_every: steps between metrics, which wait for the device.
        save_every: steps between checkpoints; the last step is always saved.
        keep: how many of the newest checkpoints are kept.
        keep_every: checkpoints at multiples of this many steps are kept for good; 0 for none.
        best: name of an evaluation's metric; the checkpoint where it was highest is kept too.
        evaluate_every: steps between evaluations, each followed by a save; 0 for none.
        accumulation: chunks a batch is taken in, exactly (`step.gradients`), to save memory.
        max_skipped_in_a_row: steps whose loss or gradient is not finite change nothing; after this
            many in a row the run stops.
        max_bad_share: the largest share of unreadable samples; above it the run stops.
        checkpoints: where these are kept, unless in the run's directory: another disk, or a bucket
            (`gs://`, `s3://`) that all hosts reach.
    """

    steps: int
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2
    keep_every: int = 0
    best: str = ""
    evaluate_every: int = 0
    accumulation: int = 1
    max_skipped_in_a_row: int = 10
    max_bad_share: float = 0.01
    checkpoints: str = ""

    def __post_init__(self):
        positive = ("steps", "log_every", "save_every", "keep", "accumulation")
        positive += ("max_skipped_in_a_row",)
        if min(getattr(self, name) for name in positive) < 1:
            raise UserError(f"expected {', '.join(positive)} of at least 1, got {self}")
        if min(self.keep_every, self.evaluate_every) < 0 or not 0 <= self.max_bad_share <= 1:
            raise UserError(
                f"expected keep_every and evaluate_every of at least 0 and max_bad_share in "
                f"[0, 1], got {self}"
            )
        if self.best and not self.evaluate_every:
            raise UserError(f"expected evaluate_every with best={self.best!r}, got 0")

    def is_evaluated(self, done: int) -> bool:
        """Returns whether an evaluation is due after so many steps."""
        every = self.evaluate_every
        return bool(every) and (done % every == 0 or done == self.steps)

    def is_recorded(self, done: int) -> bool:
        """Returns whether a log line, a save or an evaluation is due after so many steps."""
        is_due = any(done % every == 0 for every in (self.log_every, self.save_every))
        return is_due or done == self.steps or self.is_evaluated(done)
