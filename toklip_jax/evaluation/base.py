"""What every evaluation of a config is: what it asks of which pictures, and a table of the answers.

An evaluation computes nothing on a device itself. It names picture sets and outputs
(`subject.OUTPUTS`) and texts; the suite encodes them, on whatever mesh, and hands over arrays. So
figures depend on neither the mesh nor the number of hosts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from toklip_jax.evaluation.subject import FEATURES, Subject
from toklip_jax.evaluation.tables import Cell

Rows = Mapping[str, np.ndarray]  # output -> one row a picture; "index" says which picture
SourceConfig = Mapping[str, Any]
Sources = Mapping[str, Any]  # set -> the opened data source


@dataclasses.dataclass(frozen=True)
class Encodings:
    """What an evaluation gets to judge by.

    Attributes:
        subject: the models.
        sources: the opened data source of each picture set.
        pictures: the rows of each set.
        texts: normalised features of each list of texts, float32 [n, d].
        has_baselines: whether also what is reached without a model is asked for.
    """

    subject: Subject
    sources: Sources
    pictures: Mapping[str, Rows]
    texts: Mapping[str, np.ndarray]
    has_baselines: bool


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The answer.

    Attributes:
        rows: of the table, each with the name of what was judged under `model`; figures have ASCII
            names (`tables.figure_label` gives those for people).
        details: what the report draws: `confusion`, `code_counts`. Plain lists and numbers.
    """

    rows: list[dict[str, Cell]]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Evaluation:
    """Base of the kinds, which are frozen dataclasses of a config section's fields."""

    def sets(self) -> dict[str, SourceConfig]:
        """Returns the configs of the picture sets, by name."""
        raise NotImplementedError

    def outputs(
        self, subject: Subject, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        """Returns what is wanted of each set's pictures; what `subject` can't give is left out.

        Raises:
            ValueError: nothing is left that could be judged.
        """
        raise NotImplementedError

    def texts(self, sources: Sources) -> dict[str, list[str]]:
        """Returns lists of texts to encode, by name.

        Raises:
            ValueError: class names that don't fit the data.
        """
        return {}

    def judge(self, data: Encodings) -> Judgement:
        """Returns the figures."""
        raise NotImplementedError


def features_of(rows: Rows) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and features of each model among `rows` that lives in the texts' space."""
    for output, name in FEATURES.items():
        if output in rows:
            yield name, rows[output]


def want(subject: Subject, outputs: tuple[str, ...], kind: str) -> tuple[str, ...]:
    """Returns the outputs that can be had.

    Raises:
        ValueError: none can.
    """
    found = subject.only(outputs)
    if not found:
        raise ValueError(
            f"expected a model for the evaluation {kind}, got none that gives one of "
            f"{', '.join(outputs)}: name it in the config's models"
        )
    return found
