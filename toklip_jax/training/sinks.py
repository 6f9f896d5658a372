"""Optional places that a run's metrics go to: the terminal, TensorBoard, Weights & Biases.

Each is opened and used through `BestEffort`, so that none can stop or delay training.
"""

import inspect
import pathlib
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from toklip_jax.core.errors import UserError
from toklip_jax.core.lines import MAX_COLUMNS, joined
from toklip_jax.core.whole_files import write_whole
from toklip_jax.parallel.progress import Bar

WANDB_ID = "wandb_id"  # in a stage's directory


class Terminal:
    """A progress bar where there is a terminal, and lines of text."""

    def __init__(self, title: str, total_steps: int, start: int):
        self._bar = Bar(title, total_steps, start, mininterval=1.0)

    def advance(self) -> None:
        """Counts one step."""
        self._bar.update()

    def say(self, parts: Sequence[str]) -> None:
        """Prints a line of parts; on a terminal several lines where they don't fit one."""
        columns = MAX_COLUMNS if sys.stdout.isatty() else None
        tqdm.tqdm.write(joined(parts, columns), sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class Events:
    """TensorBoard's events.

    They are written at once and not, as `SummaryWriter` does, by a thread that nobody hears of
    when it dies, and for which later calls then wait.
    """

    def __init__(self, directory: pathlib.Path, start: int):
        """Opens a file; TensorBoard ignores what earlier ones have from step `start` on."""
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        self._write(Event(step=start, file_version="brain.Event:2"))
        self._write(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, scalars: Mapping[str, float | int]) -> None:
        """Writes scalars of a step."""
        for name, value in scalars.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, event):
        event.wall_time = time.time()
        self._writer.write_event(event)


class WandbRun:
    """A run of Weights & Biases: one for each stage of a run, which a resumed stage continues."""

    def __init__(self, settings: Mapping[str, Any], title: str, directory: pathlib.Path):
        """Starts or continues it.

        Args:
            settings: arguments of `wandb.init`, which take precedence over those set here.
            directory: the stage's directory; it keeps the run's id.
        """
        import wandb

        ours = {
            "name": f"{directory.parent.name}-{title}",
            "resume": "allow",
            "dir": str(directory),
        }
        if "id" not in settings:
            ours["id"] = _kept_id(directory)
        self._run = wandb.init(**(ours | settings))

    def add(self, step: int, scalars: Mapping[str, float | int]) -> None:
        """Logs scalars of a step."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Ends it."""
        self._run.finish()


def check_wandb(settings: Mapping[str, Any]) -> None:
    """Checks a config's section `wandb`, so that a mistake is told before training.

    Raises:
        ValueError: wandb is not installed, or `wandb.init` has no such arguments.
    """
    if not settings:
        return
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "expected wandb to be installed, as the config's wandb section asks for it: "
            "pip install wandb, or empty the section"
        ) from error
    try:
        inspect.signature(wandb.init).bind(**settings)
    except TypeError as error:
        raise UserError(
            f"expected arguments of wandb.init in the config's wandb section, got "
            f"{sorted(settings)}: {error}"
        ) from error


def _kept_id(directory):
    """Returns the run's id, a new one for a new run: names of directories are reused."""
    path = directory / WANDB_ID
    if not path.exists():
        write_whole(path, uuid.uuid4().hex)
    return path.read_text().strip()
