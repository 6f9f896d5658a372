"""Reads a config file once, into checked, frozen dataclasses.

All errors of a config are found here, before anything is made, and reported together.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from toklip_jax.core.errors import Problems, UserError
from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.data.build import check_augment
from toklip_jax.data.config import ReadingConfig, TextDataConfig
from toklip_jax.data.sources import SourceConfig
from toklip_jax.evaluation.base import Evaluation
from toklip_jax.evaluation.config import EvaluationConfig
from toklip_jax.evaluation.registry import build_evaluation
from toklip_jax.models.base import ROLES
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import MeshConfig
from toklip_jax.parallel.start import ProcessesConfig
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.registry import task_of
from toklip_jax.tasks.toklip.encode_config import EncodeConfig
from toklip_jax.training.loop import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig

# Fields of a stage's section that are not the task's own.
STAGE_FIELDS = ("objective", "loss", "optimizer", "loop", "batch_size", "augment")
STAGE_FIELDS += ("validation", "evaluate", "cache")
# Top-level fields that are not sections of stages.
FIELDS = ("seed", "mesh", "compute", "distributed", "source", "text", "image_size", "num_workers")
FIELDS += ("stages", "encode", "models", "evaluate", "evaluations", "evaluation_batch_size")
FIELDS += ("evaluation_resize", "report", "wandb", "imports")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The settings of a run's report.

    Attributes:
        source: where its images come from; None for the run's source.
        num_images: number of images shown large.
        num_searched: number of images that are searched for neighbours; 0 for as many as are fast.
        phrases: phrases that are looked up in the images first.
    """

    source: SourceConfig | None = None
    num_images: int = 8
    num_searched: int = 0
    phrases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole config.

    Attributes:
        seed: seed of parameters, data order and augmentation.
        mesh, compute, processes: devices and types that models compute on and in.
        source: the data that stages train on, or None.
        text, reading: settings of texts and images.
        stages: the stages to train, in order.
        sections: all stages that the config describes, by name, trained or not.
        encode: settings of encoding a cache.
        models: paths of the weights to evaluate, or "stage:NAME", by role.
        evaluate: names of the evaluations that end the run.
        evaluations: all evaluations that the config describes, by name.
        evaluation: settings that all evaluations share.
        report: settings of the report, or None for no report.
        wandb: arguments of `wandb.init`; empty for none.
        description: the config as plain json data, for files.
    """

    seed: int
    mesh: MeshConfig
    compute: Compute
    processes: ProcessesConfig
    source: SourceConfig | None
    text: TextDataConfig
    reading: ReadingConfig
    stages: tuple[StageConfig, ...]
    sections: Mapping[str, StageConfig]
    encode: EncodeConfig
    models: Mapping[str, str]
    evaluate: tuple[str, ...]
    evaluations: Mapping[str, Evaluation]
    evaluation: EvaluationConfig
    report: ReportConfig | None
    wandb: Mapping[str, Any]
    description: Mapping[str, Any]


def read_experiment(config: ConfigDict) -> Experiment:
    """Reads and checks a config, after importing the modules that its `imports` names.

    Raises:
        UserError: all errors, one a line where there are several.
    """
    plain = config.to_dict()
    _import(plain.get("imports", ()))
    return _Reader(plain, json.loads(config.to_json())).read()


def _import(names):
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"expected a module to import in the config's imports, got {name!r} ({error}): "
                f"install it, or correct its name"
            ) from error


class _Reader:
    """Reads section after section, and collects the errors."""

    def __init__(self, plain: dict[str, Any], description: dict[str, Any]):
        self.plain, self.description = plain, description
        self.problems = Problems()

    def read(self) -> Experiment:
        attempt = self.problems.attempt
        for name, value in self.plain.items():
            attempt(lambda n=name, v=value: _check_field(n, v))
        source = attempt(self._run_source)
        sections = self._stages(source)
        evaluations = self._evaluations()
        names = tuple(self.plain.get("stages", ()))
        for name in names:
            attempt(lambda n=name: _expect_stage(n, sections))
        fields = {
            "seed": self._number("seed", 0),
            "mesh": self._section(MeshConfig, "mesh"),
            "compute": self._section(Compute, "compute"),
            "processes": self._section(ProcessesConfig, "distributed"),
            "source": source,
            "text": self._section(TextDataConfig, "text"),
            "reading": attempt(self._reading),
            "encode": self._section(EncodeConfig, "encode"),
            "models": attempt(self._models),
            "evaluate": attempt(lambda: self._names("evaluate", self.plain, evaluations)),
            "evaluation": attempt(self._evaluation),
            "report": attempt(self._report),
            "wandb": dict(self.plain.get("wandb", {})),
        }
        if not self.problems.lines:
            self._check_outlines(names, sections, fields["compute"])
        self.problems.raise_if_any("the config")
        return Experiment(
            **fields,
            stages=tuple(sections[name] for name in names),
            sections=sections,
            evaluations=evaluations,
            description=self.description,
        )

    def _section(self, cls, name):
        fields = self.plain.get(name) or {}
        return self.problems.attempt(lambda: from_fields(cls, fields, name))

    def _number(self, name, default):
        value = self.plain.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problems.lines.append(f"expected an int for {name}, got {value!r}")
        return value

    def _run_source(self):
        source = self.plain.get("source") or None
        if source is None and self.plain.get("stages"):
            raise ValueError("expected a section source, as there are stages to train, found none")
        return source and SourceConfig.from_plain(source, "source")

    def _reading(self):
        names = [field.name for field in dataclasses.fields(ReadingConfig)]
        fields = {name: self.plain[name] for name in names if name in self.plain}
        return from_fields(ReadingConfig, fields, "the config")

    def _evaluation(self):
        prefix = "evaluation_"
        fields = {
            name.removeprefix(prefix): value
            for name, value in self.plain.items()
            if name.startswith(prefix)
        }
        return from_fields(EvaluationConfig, fields, "the config's evaluation fields")

    def _models(self):
        models = dict(self.plain.get("models") or {})
        for name in models:
            check_name("models", name, ROLES)
        if models.get("toklip") and models.get("vq"):
            raise ValueError("expected models.vq only without models.toklip, which has its own")
        return models

    def _report(self):
        section = dict(self.plain.get("report") or {})
        if not section:
            return None
        if section.get("source"):
            section["source"] = SourceConfig.from_plain(section["source"], "report.source")
        return from_fields(ReportConfig, section, "report")

    def _evaluations(self):
        found = {}
        for name, section in (self.plain.get("evaluations") or {}).items():
            found[name] = self.problems.attempt(lambda n=name, s=section: build_evaluation(n, s))
        return found

    def _names(self, where, section, evaluations):
        names = tuple(section.get("evaluate", ()))
        for name in names:
            check_name(where, name, evaluations)
        return names

    def _stages(self, source) -> dict[str, StageConfig | None]:
        stages = {
            name: section
            for name, section in self.plain.items()
            if isinstance(section, dict) and "objective" in section and name not in FIELDS
        }
        return {name: self._stage(name, section, source) for name, section in stages.items()}

    def _stage(self, name, section, source) -> StageConfig | None:
        """Reads one stage, its parts separately, so that every error is found."""
        attempt, before = self.problems.attempt, len(self.problems.lines)
        task = attempt(lambda: task_of(section["objective"], f"{name}.objective"))
        if task is None:
            return None
        own = {field: value for field, value in section.items() if field not in STAGE_FIELDS}
        where, augment = f"{name}.augment", section.get("augment", {})
        parts = {
            "model": attempt(lambda: task.read(own, name)),
            "optimizer": attempt(
                lambda: from_fields(
                    OptimizerConfig, section.get("optimizer", {}), f"{name}.optimizer"
                )
            ),
            "loop": attempt(
                lambda: from_fields(LoopConfig, section.get("loop", {}), f"{name}.loop")
            ),
            "batch_size": attempt(lambda: _batch_size(section, name)),
            "source": attempt(lambda: self._stage_source(name, section, task, source)),
            "validation": attempt(lambda: self._validation(name, section)),
            "evaluate": attempt(
                lambda: self._names(f"{name}.evaluate", section, self.plain.get("evaluations", {}))
            ),
        }
        if parts["source"] is not None:
            attempt(lambda: check_augment(parts["source"], augment, where))
        if len(self.problems.lines) > before:
            return None
        return attempt(
            lambda: StageConfig(
                name=name,
                task=task.name,
                loss=dict(section.get("loss", {})),
                batch_size=parts.pop("batch_size"),
                augment=dict(augment),
                cache=section.get("cache", ""),
                **parts,
            )
        )

    def _stage_source(self, name, section, task, source):
        if directory := section.get("cache", ""):
            source = SourceConfig("cache", {"directory": directory})
        if source is not None and source.gives == "ids" and task.cache is None:
            raise ValueError(
                f"expected a source of images for the {task.name} stage {name}, got a cache, which "
                f"it can't train on: name the cache in the field cache of a stage that can"
            )
        return source

    def _validation(self, name, section):
        if "validation" not in section:
            return None
        return SourceConfig.from_plain(section["validation"], f"{name}.validation")

    def _check_outlines(self, names, sections, compute):
        """Builds the objectives that can be built without weights, which checks their losses."""
        for name in names:
            stage = sections[name]
            task = task_of(stage.task)
            self.problems.attempt(lambda s=stage, t=task: _check_loss(t, s))
            if task.can_outline(stage):
                self.problems.attempt(
                    lambda s=stage, t=task: t.outline(s, sections, compute) and None
                )


def _check_field(name, value):
    """Raises ValueError for a field that is neither a stage's section nor among `FIELDS`."""
    if not (isinstance(value, dict) and "objective" in value):
        check_name("a field of the config", name, FIELDS)


def _expect_stage(name, sections):
    if name not in sections:
        raise ValueError(f"expected a section for each of stages, found none called {name!r}")


def _check_loss(task, stage):
    names = [field.name for field in dataclasses.fields(task.objective)]
    for name in stage.loss:
        check_name(f"a field of the {stage.task} stage's loss", name, names)


def _batch_size(section, name):
    size = section.get("batch_size")
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(f"expected an int for {name}.batch_size, got {size!r}")
    return size
