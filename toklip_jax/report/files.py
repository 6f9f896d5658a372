"""The files of a run, read from its workdir."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_type
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import read_object
from toklip_jax.training.logging import METRICS_NAME, read_metrics
from toklip_jax.training.workdir import STAGE_PREFIX, weights_path

CONFIG, RESULTS = "config.json", "results.json"
MAX_NAME = 255  # bytes of a file's name
LARGEST = 1e100  # of a number that is drawn or printed
MAX_REASON = 200  # letters of what is said about a damaged file

# What the page reads of the files, and of sections in them. Both may come from elsewhere.
Section = Mapping[str, Any]
CONFIG_FIELDS = {
    "stages": Sequence[str],
    "models": Mapping[str, str],
    "imports": Sequence[str],
    "report": Section | None,
    "source": Section | None,
    "evaluation_resize": str,
    "exif_orientation": bool,
}
REPORT_FIELDS = {
    "source": Section | None,
    "num_images": int,
    "num_searched": int,
    "phrases": Sequence[str],
}
RESULTS_FIELDS = {
    "evaluations": Mapping[str, Section],
    "weights": Mapping[str, Mapping[str, str]],
    "versions": Mapping[str, str],
    "devices": Section,
    "date": str,
    "commit": str,
}
EVALUATION_FIELDS = {
    "kind": str,
    "rows": Sequence[Section],
    "num_images": Mapping[str, int],
    "skipped": Mapping[str, int],
    "details": Section,
}


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
        place = self.config.get("models", {}).get(name) or f"{STAGE_PREFIX}{name}"
        return weights_path(place, self.workdir)

    def has_model(self, name: str) -> bool:
        """Tells whether there is a file or a directory at `model_path`."""
        path = self.model_path(name)
        return os.path.isfile(path) or os.path.isdir(path)  # also for what is no path at all

    def tokenizer_path(self) -> pathlib.Path | None:
        """Returns the text tokenizer that the run kept, or None."""
        path = self.workdir / "tokenizer.json"
        return path if path.exists() else None


def read_run(workdir: str | pathlib.Path) -> Run:
    """Reads a run.

    Raises:
        ValueError: no run there, or files that are damaged or of an older version.
    """
    workdir = expand_user(workdir)
    if not (workdir / CONFIG).exists():
        raise UserError(f"expected a run with a {CONFIG} in {workdir}, found none")
    config = _read_config(workdir / CONFIG)
    results = _read_results(workdir / RESULTS) if (workdir / RESULTS).exists() else {}
    names = [name for name in config.get("stages", ()) if _is_file_name(name)]
    logs = {name: read_metrics(workdir / name / METRICS_NAME) for name in names}
    return Run(workdir, config, results, {name: log for name, log in logs.items() if log})


def number(value: Any) -> float | None:
    """Returns a number of a file as a float; None for anything else, and for what has no end."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None


def counts_of(values: Any) -> Int[np.ndarray, "..."] | None:
    """Returns nested lists of a file as an array of counts; None for anything else."""
    try:
        counts = np.asarray(values)
    except (TypeError, ValueError, OverflowError):  # ragged
        return None
    is_counted = counts.dtype == np.int64 and counts.size > 0 and counts.min() >= 0
    return counts if is_counted and counts.any() else None


def _read_config(path) -> dict[str, Any]:
    remedy = "copy the run again"
    config = read_object(path, remedy)
    _check_fields(config, CONFIG_FIELDS, "", path, remedy)
    _check_fields(config.get("report") or {}, REPORT_FIELDS, "report.", path, remedy)
    return config


def _read_results(path) -> dict[str, Any]:
    remedy = "evaluate the run again, with --mode=eval"
    results = read_object(path, remedy)
    _check_fields(results, RESULTS_FIELDS, "", path, remedy)
    for name, evaluation in results.get("evaluations", {}).items():
        _check_fields(evaluation, EVALUATION_FIELDS, f"evaluations.{name}.", path, remedy)
    return results


def _check_fields(section, fields, where, path, remedy):
    for name, kind in fields.items():
        if name not in section:
            continue
        try:
            check_type(section[name], kind, f"{where}{name}")
        except ValueError as error:
            reason = str(error)[:MAX_REASON]
            raise UserError(f"{path} is damaged ({reason}): {remedy}") from error


def _is_file_name(name) -> bool:
    """Says whether a directory may be called so: a stage of another name has left no log."""
    is_plain = os.path.basename(name) == name and name not in ("", ".", "..") and "\0" not in name
    return is_plain and len(name.encode(errors="replace")) <= MAX_NAME
