"""The speed of a run: images a second, share of the chips' peak, share of waiting for data."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax

from toklip_jax.costs.chips import chip


class Speed:
    """Measures the speed of training steps between two calls of `report`.

    The time that isn't training (evaluations, saves, profiles) is paused. Nothing is measured
    before `begin`, as the first step includes compiling and says nothing about speed.
    """

    def __init__(self, total_steps: int, clock: Callable[[], float] = time.perf_counter):
        self._total, self._clock = total_steps, clock
        self._batch_size, self._flops, self._done = 0, 0.0, 0
        self._waited, self._since = 0.0, None

    def begin(self, step: int, batch_size: int, flops: float = 0.0) -> None:
        """Measures from here on, after `step`.

        Args:
            flops: FLOPs of a step's model, rematerialisation not counted; 0 where unknown.
        """
        self._batch_size, self._flops, self._done = batch_size, flops, step
        self._since = self._clock()

    @property
    def has_begun(self) -> bool:
        """Says whether steps are measured."""
        return self._since is not None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time spent within it; steps under way must have ended before."""
        began = self._clock()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += self._clock() - began

    def waited(self, seconds: float) -> None:
        """Adds time that was spent waiting for a batch while no step was running."""
        if self.has_begun:
            self._waited += seconds

    def report(self, step: int) -> dict[str, float]:
        """Returns the figures since the last report; `mfu` where the chip's peak is known.

        `seconds_left` are those of the steps alone, without evaluations to come.
        """
        steps = step - self._done
        if not self.has_begun or not steps:
            return {}
        now = self._clock()
        seconds, chips = max(now - self._since, 1e-9), jax.device_count()
        figures = {
            "images_per_second_per_chip": steps * self._batch_size / seconds / chips,
            "seconds_per_step": seconds / steps,
            "data_wait": self._waited / seconds,
            "seconds_left": seconds / steps * (self._total - step),
        }
        spec = chip(jax.devices()[0].device_kind)
        if spec and self._flops:
            figures["mfu"] = self._flops * steps / seconds / chips / spec.bf16_flops
        self._waited, self._since, self._done = 0.0, now, step
        return figures
