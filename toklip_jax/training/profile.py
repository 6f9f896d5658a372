"""A profile of some steps, by jax's profiler."""

import logging
import pathlib

import jax

logger = logging.getLogger(__name__)


class Profile:
    """Profiles the steps asked for, on host 0; a profile that fails does not stop training."""

    def __init__(self, steps: tuple[int, int] | None, directory: pathlib.Path):
        """Starts nothing yet.

        Args:
            steps: [first, last), or None for none.
        """
        self._steps, self._directory, self._is_on = steps, directory, False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error) -> None:
        self._stop()

    def at(self, step: int) -> None:
        """Starts or stops where `step` (updates done) is the first step, or past the last."""
        if self._steps is None or jax.process_index():
            return
        start, stop = self._steps
        if step == start and not self._is_on:
            self._start()
        elif step >= stop:
            self._stop()

    def _start(self):
        try:
            jax.profiler.start_trace(str(self._directory))
            self._is_on = True
        except Exception as error:  # from the profiler's own code, which raises anything
            self._give_up(error)

    def _stop(self):
        if not self._is_on:
            return
        self._is_on = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error):
        logger.warning("no profile in %s (%s); the run continues", self._directory, error)
