"""The log of a run: a line a minute, a progress bar, TensorBoard, json lines, W&B."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import tqdm
from tensorboardX import SummaryWriter

from toklip_jax.core.whole_files import write_whole

SECONDS_PER_LINE = 60
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
    ):
        self.path = pathlib.Path(directory) / METRICS_NAME
        self._title, self._total, self._last_line = title, total_steps, -math.inf
        self._is_main = jax.process_index() == 0
        self._bar = self._events = self._wandb = None
        if not self._is_main:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_from(start)
        self._events = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=start)
        # A bar where there is a terminal, lines elsewhere.
        self._bar = tqdm.tqdm(
            total=total_steps, initial=start, desc=title, unit="step", mininterval=1.0, disable=None
        )
        if wandb:
            self._wandb = _start_wandb(wandb, title, self.path.parent)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error) -> None:
        for part in (self._bar, self._events):
            if part is not None:
                part.close()
        if self._wandb is not None:
            self._wandb.finish()

    def advance(self) -> None:
        """Counts one step."""
        if self._is_main:
            self._bar.update()

    def write(
        self,
        step: int,
        metrics: Mapping[str, float | int],
        speed: Mapping[str, float] | None = None,
    ) -> None:
        """Records metrics of `step` (updates done)."""
        if not self._is_main:
            return
        record = {"step": step, **{k: _or_null(v) for k, v in metrics.items()}}
        if speed:
            record["speed"] = dict(speed)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        scalars = dict(metrics) | {f"speed/{k}": v for k, v in (speed or {}).items()}
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)
        self._say(step, metrics, speed)

    def _say(self, step, metrics, speed):
        now = time.monotonic()
        if now - self._last_line < SECONDS_PER_LINE and step != self._total:
            return
        self._last_line = now
        tqdm.tqdm.write(line(self._title, step, self._total, metrics, speed or {}), sys.stdout)
        sys.stdout.flush()

    def _drop_from(self, start):
        # A run that was killed may have logged steps after its last checkpoint.
        lines = read_metrics(self.path)
        text = "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= start)
        write_whole(self.path, text)


def line(
    title: str,
    step: int,
    total: int,
    metrics: Mapping[str, float | int],
    speed: Mapping[str, float],
) -> str:
    """Returns one line for people: step, metrics, images/s/chip, MFU, data wait, time left."""
    parts = [f"{title} {step}/{total}", *(f"{k} {v:.4g}" for k, v in metrics.items())]
    if speed:
        parts.append(f"{speed['images_per_second_per_chip']:.4g} images/s/chip")
        if "mfu" in speed:
            parts.append(f"MFU {speed['mfu']:.1%}")
        parts.append(f"data wait {speed['data_wait']:.0%}")
        minutes = round(speed["seconds_left"] / 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02} left")
    return " | ".join(parts)


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


def _start_wandb(settings, title, directory):
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            "expected wandb to be installed, as the config's wandb section asks for it: "
            "pip install wandb, or empty the section"
        ) from error
    # The stage's directory names the run, so that a resumed run continues it.
    name = f"{directory.parent.name}-{title}"
    return wandb.init(name=name, id=name, resume="allow", dir=str(directory), **settings)
