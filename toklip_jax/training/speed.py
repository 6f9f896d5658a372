"""The speed of a run: images a second, share of the chips' peak, share of waiting for data."""

import time

import jax

from toklip_jax.costs.chips import chip


class Speed:
    """Measures speed between two calls of `report`.

    Args:
        flops: FLOPs of a step's model, rematerialisation not counted; 0 where unknown.
    """

    def __init__(self, batch_size: int, total_steps: int, start: int, flops: float = 0.0):
        self._batch_size, self._flops = batch_size, flops
        self._total, self._done = total_steps, start
        self._waited, self._since = 0.0, time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Adds time that was spent waiting for a batch while no step was running."""
        self._waited += seconds

    def report(self, step: int) -> dict[str, float]:
        """Returns the figures since the last report; `mfu` where the chip's peak is known."""
        now = time.perf_counter()
        seconds, steps = max(now - self._since, 1e-9), step - self._done
        chips = jax.device_count()
        figures = {
            "images_per_second_per_chip": steps * self._batch_size / seconds / chips,
            "seconds_per_step": seconds / max(steps, 1),
            "data_wait": self._waited / seconds,
            "seconds_left": seconds / max(steps, 1) * (self._total - step),
        }
        spec = chip(jax.devices()[0].device_kind)
        if spec and self._flops:
            figures["mfu"] = self._flops * steps / seconds / chips / spec.bf16_flops
        self._waited, self._since, self._done = 0.0, now, step
        return figures
