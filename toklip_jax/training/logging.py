"""What a run says while it trains: a progress bar, TensorBoard events, a file of json lines."""

import json
import pathlib
from collections.abc import Mapping

import tqdm
from tensorboardX import SummaryWriter


class RunLog:
    """Writes metrics of one stage under `directory`; host 0 alone should make one.

    Attributes:
        path: of the json lines: one object a logged step, `step` and every metric as numbers.
    """

    def __init__(self, directory: str | pathlib.Path, title: str, total_steps: int, start: int):
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "metrics.jsonl"
        self._drop_from(start)
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=start)
        self._bar = tqdm.tqdm(
            total=total_steps, initial=start, desc=title, unit="step", mininterval=1.0
        )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()
        self._events.close()

    def advance(self) -> None:
        """Counts one step."""
        self._bar.update()

    def write(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Records metrics of `step` (updates done)."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        shown = {k: f"{metrics[k]:.4g}" for k in ("loss", "learning_rate") if k in metrics}
        self._bar.set_postfix(shown, refresh=False)

    def _drop_from(self, start):
        # A run that was killed may have logged steps after its last checkpoint.
        lines = read_metrics(self.path)
        text = "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= start)
        self.path.write_text(text)


def read_metrics(path: str | pathlib.Path) -> list[dict[str, float | int]]:
    """Returns what `RunLog` wrote, in order; a torn last line is left out."""
    path = pathlib.Path(path)
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
