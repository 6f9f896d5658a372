"""The one list of evaluations; `register_evaluation` adds those of other packages."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import add_new, check_name, check_section, from_fields
from toklip_jax.evaluation.base import Evaluation
from toklip_jax.evaluation.generation import Generation
from toklip_jax.evaluation.image_sets import check_source
from toklip_jax.evaluation.meaning import Meaning
from toklip_jax.evaluation.prefix import Prefix
from toklip_jax.evaluation.reconstruction import Reconstruct
from toklip_jax.evaluation.retrieval import Retrieval
from toklip_jax.evaluation.zeroshot import ZeroShot

EVALUATIONS: dict[str, type[Evaluation]] = {
    "generation": Generation,
    "meaning": Meaning,
    "prefix": Prefix,
    "reconstruction": Reconstruct,
    "retrieval": Retrieval,
    "zeroshot": ZeroShot,
}


def register_evaluation(kind: str, cls: type[Evaluation]) -> None:
    """Makes `cls`, a frozen dataclass, the evaluation of sections of this kind.

    Raises:
        ValueError: another class has the name, or it is no dataclass of this kind.
    """
    if not (dataclasses.is_dataclass(cls) and issubclass(cls, Evaluation)):
        raise UserError(f"expected a dataclass that is an Evaluation for {kind!r}, got {cls!r}")
    add_new(EVALUATIONS, kind, cls, "a kind of evaluation")


def build_evaluation(name: str, section: Mapping[str, Any]) -> Evaluation:
    """Returns the evaluation of a config's section {"kind": ..., fields of that kind's class}.

    Args:
        name: the section's name, for messages.

    Raises:
        ValueError: an unknown kind or field, which names the nearest, or a source that is not one.
    """
    if "kind" not in check_section(section, f"evaluations.{name}"):
        raise UserError(f"expected a kind in evaluations.{name}, got {sorted(section)}")
    kind = check_name(f"evaluations.{name}.kind", section["kind"], EVALUATIONS)
    fields = {field: value for field, value in section.items() if field != "kind"}
    evaluation = from_fields(EVALUATIONS[kind], fields, f"evaluations.{name}")
    for part, source in evaluation.sets().items():
        check_source(source, f"evaluations.{name}, {part}")
    return evaluation


def kind_of(evaluation: Evaluation) -> str:
    """Returns the kind under which an evaluation's class is registered.

    Raises:
        ValueError: it is not.
    """
    for kind, cls in EVALUATIONS.items():
        if type(evaluation) is cls:
            return kind
    raise UserError(
        f"expected an evaluation among {sorted(EVALUATIONS)}, got a {type(evaluation).__name__}: "
        f"call register_evaluation with it"
    )
