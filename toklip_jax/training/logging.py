"""The log of a run: json lines, a line a minute, a progress bar, TensorBoard, W&B.

Nothing of it is needed to train or to resume: what can't be written is left out, and a warning says
so once.
"""

import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from toklip_jax.core.lines import in_words
from toklip_jax.core.whole_files import write_whole
from toklip_jax.parallel.hosts import is_main_host
from toklip_jax.training.best_effort import BestEffort
from toklip_jax.training.sinks import Events, Terminal, WandbRun

logger = logging.getLogger(__name__)
SECONDS_PER_LINE = 60
WANDB_SECONDS = 60.0  # that its last upload may take at the end
METRICS_NAME = "metrics.jsonl"


class RunLog:
    """Writes metrics of one stage under `directory`; on hosts other than 0 it writes nothing.

    Attributes:
        path: the file of JSON lines, an object for each logged step: `step`, every metric as a
            number (null where not finite), and the figures of `Speed` under `speed`.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        title: str,
        total_steps: int,
        *,
        start: int = 0,
        wandb: Mapping[str, Any] | None = None,
        heading: str = "",
        run_seconds_left: Callable[[Mapping[str, float]], float | None] = lambda speed: None,
    ):
        """Opens the log of a stage.

        Args:
            title: the stage's name.
            start: steps that were done before.
            wandb: arguments of `wandb.init`; none for no run there.
            heading: what lines and bar begin with, by default the title.
            run_seconds_left: returns the seconds that the whole run has left, of the figures of
                `Speed`; None where that isn't known, or the same.
        """
        directory = pathlib.Path(directory)
        self._heading, self._total, self._last_line = heading or title, total_steps, -math.inf
        self._run_seconds_left = run_seconds_left
        self._lines, self._sinks, self._terminal = None, [], None
        self.path = directory / METRICS_NAME
        if not is_main_host():
            return
        self._lines = _Lines(self.path, start)
        self._terminal = BestEffort(
            "the terminal", lambda: Terminal(self._heading, total_steps, start)
        )
        events = directory / "tensorboard"
        self._sinks.append(BestEffort("TensorBoard's log", lambda: Events(events, start)))
        if wandb:
            settings = dict(wandb)
            self._sinks.append(
                BestEffort(
                    "Weights & Biases",
                    lambda: WandbRun(settings, title, directory),
                    close_seconds=WANDB_SECONDS,
                )
            )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error) -> None:
        for sink in (self._terminal, *self._sinks):
            if sink is not None:
                sink.close()

    def has(self, step: int) -> bool:
        """Returns whether a step was logged before this run of the stage; False on other hosts."""
        return self._lines is not None and step in self._lines.earlier

    def advance(self) -> None:
        """Counts one step."""
        if self._terminal is not None:
            self._terminal.call(Terminal.advance)

    def write(
        self,
        step: int,
        metrics: Mapping[str, float | int],
        speed: Mapping[str, float] | None = None,
    ) -> None:
        """Records metrics of `step` (updates done)."""
        if self._lines is None:
            return
        record = {"step": step, **{k: _or_null(v) for k, v in metrics.items()}}
        if speed:
            record["speed"] = dict(speed)
        self._lines.append(record)
        scalars = dict(metrics) | {f"speed/{k}": v for k, v in (speed or {}).items()}
        for sink in self._sinks:
            sink.call(lambda opened: opened.add(step, scalars))
        self._say(step, metrics, speed)

    def _say(self, step, metrics, speed):
        now = time.monotonic()
        if now - self._last_line < SECONDS_PER_LINE and step != self._total:
            return
        is_first, self._last_line = self._last_line == -math.inf, now
        speed = speed or {}
        is_asked = speed and not is_first and step < self._total  # it takes seconds to tell
        run_left = self._run_seconds_left(speed) if is_asked else None
        parts = line_parts(self._heading, step, self._total, metrics, speed, run_left)
        self._terminal.call(lambda terminal: terminal.say(parts))


class _Lines:
    """The file of json lines.

    Attributes:
        earlier: the steps that it has from earlier runs of the stage.
    """

    def __init__(self, path, start):
        """Drops the steps after `start`: a run that was killed logs past its last checkpoint."""
        self._path, self._is_torn, self._has_warned = path, False, False
        kept = [record for record in read_metrics(path) if record["step"] <= start]
        self.earlier = {record["step"] for record in kept}
        self._attempt(lambda: self._rewrite(kept))

    def append(self, record):
        # What follows a line that was cut off begins on a line of its own.
        text = "\n" * self._is_torn + json.dumps(record) + "\n"
        self._is_torn = not self._attempt(lambda: self._append(text))

    def _append(self, text):
        with self._path.open("a") as file:
            file.write(text)

    def _rewrite(self, records):
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, "".join(json.dumps(record) + "\n" for record in records))

    def _attempt(self, write):
        try:
            write()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "%s can't be written (%s): it will lack steps; the run continues",
                    self._path,
                    error.strerror,
                )
            return False
        return True


def line_parts(
    heading: str,
    step: int,
    total: int,
    metrics: Mapping[str, float | int],
    speed: Mapping[str, float],
    run_seconds_left: float | int | None = None,
) -> list[str]:
    """Returns the parts of a line: step, metrics, images/s/chip, MFU, data wait, time left."""
    parts = [f"{heading} {step}/{total}", *(f"{k} {v:.4g}" for k, v in metrics.items())]
    if speed:
        parts.append(f"{speed['images_per_second_per_chip']:.4g} images/s/chip")
        if "mfu" in speed:
            parts.append(f"MFU {speed['mfu']:.1%}")
        parts.append(f"data wait {speed['data_wait']:.0%}")
        parts.append(f"{in_words(speed['seconds_left'])} left")
    if run_seconds_left is not None:
        parts.append(f"about {in_words(run_seconds_left)} left of the run")
    return parts


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Returns what `RunLog` wrote, in order, without lines that are incomplete or damaged."""
    path = pathlib.Path(path)
    records = map(_record, path.read_bytes().splitlines() if path.exists() else ())
    return [record for record in records if record is not None]


def has_log(directory: str | pathlib.Path) -> bool:
    """Tells whether a stage's directory has a log, and so whether a step was made."""
    path = pathlib.Path(directory) / METRICS_NAME
    return path.exists() and path.stat().st_size > 0


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    return record if is_record else None


def _or_null(value):
    return value if math.isfinite(value) else None
