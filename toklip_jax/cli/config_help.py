"""The fields of a config for people: each with its value, and what it means.

Meanings are those of the docstrings of the classes that the sections are read into.
"""

import dataclasses
import inspect
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from toklip_jax.core.lines import MAX_COLUMNS
from toklip_jax.data.config import ReadingConfig, TextDataConfig
from toklip_jax.data.images import Decode, ShiftAndScale
from toklip_jax.data.sources.base import registered
from toklip_jax.evaluation.config import EvaluationConfig
from toklip_jax.evaluation.registry import EVALUATIONS
from toklip_jax.experiment import Experiment, ReportConfig
from toklip_jax.models.serialization import config_kinds
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import MeshConfig
from toklip_jax.parallel.start import ProcessesConfig
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.registry import TASKS
from toklip_jax.tasks.toklip.encode_config import EncodeConfig
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig

SECTIONS = {
    "mesh": MeshConfig,
    "compute": Compute,
    "distributed": ProcessesConfig,
    "text": TextDataConfig,
    "encode": EncodeConfig,
    "report": ReportConfig,
    "optimizer": OptimizerConfig,
    "loop": LoopConfig,
}
OTHERS = {
    "imports": "modules that are imported first, such as your own, which register what they add",
    "objective": "what the stage trains: one of {tasks}",
}
INDENT = " " * 8
ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")

Field = tuple[str, Any, str]  # path, value, meaning


def describe_fields(config: Mapping[str, Any]) -> str:
    """Returns a config's fields and those that it leaves at their defaults, two lines each.

    Args:
        config: the config as plain data.
    """
    lines = ["fields of this config, and their values:"]
    for path, value, meaning in _fields(config):
        lines.append(f"  --config.{path}={_shown(value)}")
        lines += textwrap.wrap(
            meaning, MAX_COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT
        )
    return "\n".join(lines)


def meanings(*documented: Any) -> dict[str, str]:
    """Returns what the docstrings of classes or functions say of their fields, by name."""
    found: dict[str, str] = {}
    for one in documented:
        for text in _docstrings(one):
            found |= {name: said for name, said in _entries(text) if name not in found}
    return found


def _fields(config) -> Iterator[Field]:
    known = meanings(Experiment, ReadingConfig)
    known |= {f"evaluation_{name}": said for name, said in meanings(EvaluationConfig).items()}
    for name, value in config.items():
        if not isinstance(value, Mapping) or not value:
            yield name, value, OTHERS.get(name) or known.get(name, "")
        elif "objective" in value:
            yield from _stage(name, value)
        elif name == "evaluations":
            for key, section in value.items():
                cls = EVALUATIONS.get(section.get("kind"))
                yield from _section(f"{name}.{key}", section, [cls] if cls else [])
        elif name in SECTIONS:
            yield from _section(name, value, [SECTIONS[name]])
        elif "kind" in value:
            yield from _section(name, value, _kind(value))
        else:  # by name: models, wandb
            yield from ((f"{name}.{key}", one, known.get(name, "")) for key, one in value.items())


def _stage(name, section) -> Iterator[Field]:
    task = TASKS.get(section["objective"])
    of_task = [task.fields, task.objective] if task else []
    for key, value in section.items():
        if key in SECTIONS and isinstance(value, Mapping):
            yield from _section(f"{name}.{key}", value, [SECTIONS[key]])
        elif key == "loss" and task:
            yield from _section(f"{name}.loss", value, [task.objective], has_all=False)
        elif key == "augment":
            yield from _section(f"{name}.augment", value, [Decode, ShiftAndScale], has_all=False)
        else:
            yield from _section(name, {key: value}, [*of_task, StageConfig], has_all=False)


def _section(path, section, classes, has_all=True) -> Iterator[Field]:
    """The fields of a section that is read into the first of `classes`.

    Args:
        has_all: whether the defaults of fields that the section leaves out are listed too.
    """
    known = meanings(*classes)
    defaults = _defaults(classes[0]) if has_all and classes else {}
    for name, value in (defaults | dict(section)).items():
        is_kind = isinstance(value, Mapping) and "kind" in value
        if is_kind:
            yield from _section(f"{path}.{name}", value, _kind(value), has_all=False)
        elif isinstance(value, Mapping) and value:
            said = known.get(name, "")
            yield from ((f"{path}.{name}.{key}", one, said) for key, one in value.items())
        else:
            yield f"{path}.{name}", value, known.get(name) or _other(name)


def _kind(section) -> list[Any]:
    """What a section with a kind is read into: a source, or a model's config."""
    sources = {kind.name: kind.open for kind in registered()}
    found = sources.get(section["kind"]) or config_kinds().get(section["kind"])
    return [found] if found else []


def _other(name):
    return OTHERS.get(name, "").format(tasks=", ".join(TASKS))


def _defaults(cls) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        return {}
    missing = dataclasses.MISSING
    fields = [f for f in dataclasses.fields(cls) if f.init and f.default is not missing]
    return {field.name: field.default for field in fields if field.default is not None}


def _docstrings(documented) -> Iterable[str]:
    classes = inspect.getmro(documented) if inspect.isclass(documented) else (documented,)
    for one in classes:
        if inspect.isclass(one) and one is not object:
            yield inspect.getdoc(one.__init__) or ""
        yield inspect.getdoc(one) or ""


def _entries(text) -> Iterator[tuple[str, str]]:
    """The fields that a docstring lists under "Attributes:" or "Args:"."""
    for block in re.findall(r"^(?:Attributes|Args):\n((?:[ \n].*\n?)+)", text, re.MULTILINE):
        names: list[str] = []
        said: list[str] = []
        for line in [*inspect.cleandoc(f"\n{block}").split("\n"), "end: of the block"]:
            found = ENTRY.fullmatch(line)
            if found:
                yield from ((name, " ".join(said)) for name in names)
                names, said = found[1].split(", "), [found[2]]
            else:
                said.append(line.strip())


def _shown(value):
    """A value as a shell takes it."""
    return shlex.quote(value if isinstance(value, str) else repr(value))
