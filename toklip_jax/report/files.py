"""The files of a run, read from its workdir."""

import dataclasses
import json
import pathlib
from typing import Any

from toklip_jax.training.logging import METRICS_NAME, read_metrics
from toklip_jax.training.workdir import STAGE_PREFIX, weights_path

CONFIG, RESULTS = "config.json", "results.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's files, read.

    Attributes:
        workdir: the directory of the run.
        config: the run's.
        results: results of its evaluations; empty where there are none.
        metrics: the log of each stage's training; stages without a log are left out.
    """

    workdir: pathlib.Path
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Each evaluation's rows, numbers of images and details, by its name."""
        return self.results.get("evaluations", {})

    @property
    def report(self) -> dict[str, Any]:
        """The config's section about this page."""
        return self.config.get("report") or {}

    @property
    def source(self) -> dict[str, Any] | None:
        """The config of the page's images, or None."""
        return self.report.get("source") or self.config.get("source")

    @property
    def imports(self) -> list[str]:
        """The modules that the config imports, which register the run's own kinds of things."""
        return list(self.config.get("imports") or ())

    def details(self, name: str) -> tuple[str, Any] | None:
        """Returns the name of the first evaluation that has such details, and these."""
        for evaluation, result in self.evaluations.items():
            if found := (result.get("details") or {}).get(name):
                return evaluation, found
        return None

    def model_path(self, name: str) -> pathlib.Path:
        """Returns the path where a model's weights should be, whether they are there or not."""
        place = (self.config.get("models") or {}).get(name) or f"{STAGE_PREFIX}{name}"
        return weights_path(place, self.workdir)

    def tokenizer_path(self) -> pathlib.Path | None:
        """Returns the text tokenizer that the run kept, or None."""
        path = self.workdir / "tokenizer.json"
        return path if path.exists() else None


def read_run(workdir: str | pathlib.Path) -> Run:
    """Reads a run.

    Raises:
        ValueError: no run there, or files that are damaged or of an older version.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / CONFIG).exists():
        raise ValueError(f"expected a run with a {CONFIG} in {workdir}, found none")
    config = _read_json(workdir / CONFIG)
    results = _read_json(workdir / RESULTS) if (workdir / RESULTS).exists() else {}
    logs = {name: read_metrics(workdir / name / METRICS_NAME) for name in config.get("stages", ())}
    return Run(workdir, config, results, {name: log for name, log in logs.items() if log})


def _read_json(path):
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): evaluate the run again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"expected an object in {path}, got a {type(content).__name__}, as older versions "
            f"wrote: evaluate the run again, with --mode=eval"
        )
    return content
