"""A config file, read once: from here on there are checked, frozen dataclasses.

All that a config has wrong is found here, before anything is made, and said at once.
"""

import dataclasses
import difflib
import importlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from toklip_jax.core.errors import Problems, UserError
from toklip_jax.core.fields import (
    check_name,
    check_names,
    check_section,
    check_type,
    from_fields,
)
from toklip_jax.data.build import check_augment
from toklip_jax.data.config import ReadingConfig, TextDataConfig
from toklip_jax.data.images import sides_of
from toklip_jax.data.sources import ARRAYS, SourceConfig
from toklip_jax.evaluation.base import Evaluation
from toklip_jax.evaluation.config import EvaluationConfig
from toklip_jax.evaluation.registry import build_evaluation
from toklip_jax.models.base import ROLES, family_of
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import MeshConfig
from toklip_jax.parallel.start import ProcessesConfig
from toklip_jax.tasks.base import OWN_CACHE, StageConfig, read_loss
from toklip_jax.tasks.registry import task_of
from toklip_jax.tasks.toklip.encode_config import EncodeConfig
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.workdir import STAGE_PREFIX

logger = logging.getLogger(__name__)

# Fields of a stage's section that are not the task's own.
STAGE_FIELDS = ("objective", "loss", "optimizer", "loop", "batch_size", "augment")
STAGE_FIELDS += ("validation", "evaluate", "cache", "source")
# Top-level fields that are not sections of stages.
FIELDS = ("seed", "mesh", "compute", "distributed", "source", "text", "image_size", "num_workers")
FIELDS += ("stages", "encode", "models", "evaluate", "evaluations", "evaluation_batch_size")
FIELDS += ("evaluation_resize", "exif_orientation", "report", "wandb", "imports")
MAX_SEED = 2**63


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The page of a run.

    Attributes:
        source: the source of its images, or None for the run's.
        num_images: shown large.
        num_searched: where neighbours are looked for; 0 for as many as are fast.
        phrases: the phrases that are looked for in the images first.
    """

    source: SourceConfig | None = None
    num_images: int = 8
    num_searched: int = 0
    phrases: tuple[str, ...] = ()

    def __post_init__(self):
        if self.num_images < 0 or self.num_searched < 0:
            raise UserError(
                f"expected no negative report.num_images and num_searched, got {self.num_images} "
                f"and {self.num_searched}"
            )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a config says.

    Attributes:
        seed: the seed of parameters, data order and augmentation.
        mesh, compute, processes: where and how models compute.
        source: the data that stages train on, or None.
        text, reading: of the data.
        stages: those to train, in order.
        sections: the stages that the config describes, by name, trained or not.
        encode: how caches are made.
        models: where the weights are that are evaluated, by role.
        evaluate: names of the evaluations at the end.
        evaluations: all that the config describes, by name.
        evaluation: how images are evaluated.
        report: the page, or None for none.
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
        UserError: all that is wrong with it, one a line where there are several.
    """
    try:
        plain, description = config.to_dict(), json.loads(config.to_json())
    except Exception as error:  # the config's own references are computed here
        raise UserError(
            f"expected a config of plain values, got one that gives {type(error).__name__}: "
            f"{' '.join(str(error).split())}: correct the fields that others are computed from"
        ) from error
    _import(plain.get("imports", ()))
    return _Reader(plain, description).read()


def _import(names):
    problems = Problems()
    names = problems.attempt(lambda: check_names(names, "imports"))
    problems.raise_if_any("the config")
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # the module's own code runs here, and may raise anything
            text = " ".join(str(error).split())
            raise UserError(
                f"expected a module to import in the config's imports, got {name!r} "
                f"({type(error).__name__}: {text}): install it, or correct its name"
            ) from error


class _Reader:
    """Reads section after section, and collects what is wrong."""

    def __init__(self, plain: dict[str, Any], description: dict[str, Any]):
        self.plain, self.description = plain, description
        self.problems = Problems()

    def read(self) -> Experiment:
        attempt = self.problems.attempt
        self._check_fields()
        names = attempt(self._stage_names) or ()
        reading = attempt(self._reading)
        source = attempt(lambda: self._run_source(names))
        sections = self._stages(names, source, reading)
        evaluations = self._evaluations()
        fields = {
            "seed": attempt(self._seed),
            "mesh": self._section(MeshConfig, "mesh"),
            "compute": self._section(Compute, "compute"),
            "processes": self._section(ProcessesConfig, "distributed"),
            "source": source,
            "text": self._section(TextDataConfig, "text"),
            "reading": reading,
            "encode": self._section(EncodeConfig, "encode"),
            "models": attempt(self._models),
            "evaluate": attempt(lambda: self._chosen("evaluate", self.plain)),
            "evaluation": attempt(self._evaluation),
            "report": attempt(self._report),
            "wandb": attempt(lambda: dict(self._plain_section("wandb"))),
        }
        if not self.problems.lines:
            self._check_outlines([sections[name] for name in names], sections, fields)
        self.problems.raise_if_any("the config")
        return Experiment(
            **fields,
            stages=tuple(sections[name] for name in names),
            sections=sections,
            evaluations=evaluations,
            description=self.description,
        )

    def _check_fields(self):
        """Checks the names of the top level; sections that can't be stages are taken out."""
        stages = [name for name, value in self.plain.items() if _is_stage(value)]
        for name, value in list(self.plain.items()):
            self.problems.attempt(lambda n=name, v=value: _check_field(n, v, stages))
            if name in FIELDS and _is_stage(value):
                del self.plain[name]

    def _stage_names(self):
        names = check_names(self.plain.get("stages", ()), "stages")
        found = [name for name, value in self.plain.items() if _is_stage(value)]
        for name in names:
            if name not in found:
                raise UserError(
                    f"expected a section for each of stages, found none called {name!r}"
                    f"{_nearest(name, found)}"
                )
        return names

    def _plain_section(self, name):
        """A section, or an empty one where there is none."""
        section = self.plain.get(name)
        return {} if section is None else check_section(section, name)

    def _section(self, cls, name):
        return self.problems.attempt(lambda: from_fields(cls, self._plain_section(name), name))

    def _seed(self):
        seed = check_type(self.plain.get("seed", 0), int, "seed")
        if not 0 <= seed < MAX_SEED:
            raise UserError(f"expected a seed of at least 0 and below 2**63, got {seed}")
        return seed

    def _run_source(self, names):
        section = self._plain_section("source")
        if section:
            return SourceConfig.from_plain(section, "source")
        if any(self._plain_section(name).get("source") is None for name in names):
            raise UserError("expected a section source, as there are stages to train, found none")
        return None

    def _reading(self):
        names = [field.name for field in dataclasses.fields(ReadingConfig)]
        fields = {name: self.plain[name] for name in names if name in self.plain}
        return from_fields(ReadingConfig, fields, "the config")

    def _models(self):
        """Returns where the evaluated weights are, by role, "" for none."""
        models, problems = self._plain_section("models"), Problems()
        for role, source in models.items():
            problems.attempt(lambda r=role: check_name("a model", r, ROLES))
            problems.attempt(lambda r=role, s=source: check_type(s, str, f"models.{r}"))
        problems.raise_lines()
        if self.plain.get("evaluate") and not any(models.values()):
            raise UserError("expected weights to evaluate in the config's models, got none")
        if models.get("toklip") and models.get("vq"):
            raise UserError("expected models.vq only without models.toklip, which has its own")
        return dict(models)

    def _evaluation(self):
        prefix = "evaluation_"
        fields = {
            name.removeprefix(prefix): value
            for name, value in self.plain.items()
            if name.startswith(prefix) and name in FIELDS
        }
        return from_fields(EvaluationConfig, fields, "the config's evaluation fields")

    def _report(self):
        section = dict(self._plain_section("report"))
        if not section:
            return None
        if section.get("source") is not None:
            section["source"] = SourceConfig.from_plain(section["source"], "report.source")
        return from_fields(ReportConfig, section, "report")

    def _evaluations(self):
        attempt = self.problems.attempt
        sections = attempt(lambda: self._plain_section("evaluations")) or {}
        return {
            name: attempt(lambda n=name, s=section: build_evaluation(n, s))
            for name, section in sections.items()
        }

    def _chosen(self, where, section):
        """The names of evaluations in a section's field `evaluate`."""
        names = check_names(section.get("evaluate", ()), where)
        known = self.plain.get("evaluations") or {}
        for name in names:
            check_name(where, name, known if isinstance(known, Mapping) else ())
        return names

    def _stages(self, names, source, reading) -> dict[str, StageConfig | None]:
        stages = {name: section for name, section in self.plain.items() if _is_stage(section)}
        found = {name: self._stage(name, section, source) for name, section in stages.items()}
        for stage in (found[name] for name in names if found.get(name)):
            if reading is not None:
                self.problems.attempt(lambda s=stage: _check_images(s, reading))
        return found

    def _stage(self, name, section, source) -> StageConfig | None:
        """One stage; its parts are read apart, so that all that is wrong is found."""
        attempt, before = self.problems.attempt, len(self.problems.lines)
        task = attempt(lambda: task_of(section["objective"], f"{name}.objective"))
        if task is None:
            return None
        own = {field: value for field, value in section.items() if field not in STAGE_FIELDS}

        def part(cls, field):
            return attempt(lambda: from_fields(cls, section.get(field, {}), f"{name}.{field}"))

        parts = {
            "model": attempt(lambda: task.read(own, name)),
            "loss": attempt(lambda: read_loss(task, section.get("loss", {}), f"{name}.loss")),
            "optimizer": part(OptimizerConfig, "optimizer"),
            "loop": part(LoopConfig, "loop"),
            "batch_size": attempt(
                lambda: check_type(section.get("batch_size"), int, f"{name}.batch_size")
            ),
            "source": attempt(lambda: self._stage_source(name, section, task, source)),
            "augment": attempt(
                lambda: dict(check_section(section.get("augment", {}), f"{name}.augment"))
            ),
            "validation": attempt(lambda: _validation(name, section, task)),
            "evaluate": attempt(lambda: self._chosen(f"{name}.evaluate", section)),
        }
        if len(self.problems.lines) > before:
            return None
        cache = section.get("cache", "")
        return attempt(lambda: StageConfig(name=name, task=task.name, cache=cache, **parts))

    def _stage_source(self, name, section, task, source):
        directory = check_type(section.get("cache", ""), str, f"{name}.cache")
        if section.get("source") is not None:
            if directory:
                raise UserError(
                    f"expected either {name}.source or {name}.cache, got both: leave one out"
                )
            source = SourceConfig.from_plain(section["source"], f"{name}.source")
        if directory == OWN_CACHE:
            self._check_own_cache(name, source, task)
        elif directory:
            source = SourceConfig("cache", {"directory": directory})
        if source is not None and source.gives == "ids" and task.cache is None:
            raise UserError(
                f"expected a source of images for the {task.name} stage {name}, got a cache, which "
                f"it can't train on: name the cache in the field cache of a stage that can"
            )
        return source

    def _check_own_cache(self, name, source, task):
        """Checks that a run can make the cache of a stage itself."""
        stage = self._plain_section("encode").get("stage", EncodeConfig.stage)
        if task.cache is None or stage != name or (source is not None and source.gives == "ids"):
            raise UserError(
                f"expected {name}.cache={OWN_CACHE!r} in a stage that can train on a cache, that "
                f"encode.stage names, and with a source of images, got the task {task.name}, "
                f"encode.stage {stage!r} and a source of {source and source.gives}"
            )

    def _check_outlines(self, stages, sections, fields):
        """Builds the objectives that can be built without weights, and checks what they tell."""
        attempt, roles = self.problems.attempt, {}
        for stage in stages:
            task = task_of(stage.task)
            if not task.can_outline(stage):
                continue
            objective = attempt(lambda s=stage, t=task: t.outline(s, sections, fields["compute"]))
            if objective is None:
                continue
            roles[STAGE_PREFIX + stage.name] = family_of(objective.model_config).role
            size = fields["reading"].image_size or stage.source.image_size
            if size:
                sides = sides_of(size)
                attempt(lambda t=task, o=objective, s=sides: t.batch(o, s, 1))
        for role, source in fields["models"].items():
            if roles.get(source, role) != role:
                self.problems.lines.append(
                    f"expected weights of kind {role} in models.{role}, got {source!r}, which "
                    f"makes those of kind {roles[source]}"
                )


def _nearest(name, names):
    near = difflib.get_close_matches(name, names, 1)
    return f": did you mean {near[0]!r}?" if near else ""


def _is_stage(section):
    return isinstance(section, Mapping) and "objective" in section


def _check_field(name, value, stages):
    """Raises ValueError for a field of the top level that is neither a known one nor a stage."""
    if _is_stage(value):
        if name in FIELDS:
            raise UserError(
                f"expected another name for the stage {name!r}, which is a field of every config: "
                f"rename the section"
            )
        return
    is_section = isinstance(value, Mapping)
    if is_section and name not in FIELDS and not difflib.get_close_matches(name, FIELDS, 1):
        raise UserError(
            f"expected a field 'objective' in the section {name}, as stages have, found "
            f"{sorted(value)}{_nearest(name, stages)}"
        )
    check_name("a field of the config", name, FIELDS)


def _validation(name, section, task):
    plain = section.get("validation")
    if plain is None:
        return None
    if not task.has_validation:
        raise UserError(
            f"expected no section validation in the {task.name} stage {name}, which has no texts "
            f"to compare, got one: use evaluate"
        )
    return SourceConfig.from_plain(plain, f"{name}.validation")


def _check_images(stage, reading):
    """Checks the augmentation of a stage's images, and says which size is not used."""
    source = stage.source
    if source is None:
        return
    sizes = source.image_size, reading.image_size
    if source.gives == ARRAYS and all(sizes) and sides_of(sizes[0]) != sides_of(sizes[1]):
        logger.warning(
            "the %s source's arrays keep their image_size of %s: the config's image_size of %s is "
            "that of encoded images only",
            source.kind,
            *sizes,
        )
    for leaf in source.leaves if reading.exif_orientation else ():
        if leaf.image_size and leaf.completed.get("exif_orientation") is False:
            raise UserError(
                f"expected {leaf.where}.exif_orientation True, as the config's, got False: the "
                f"{leaf.kind} source reads its images itself, so set both"
            )
    check_augment(source, stage.augment, f"{stage.name}.augment")
