"""The interface of evaluations: each asks for outputs of images and texts, and makes a table.

An evaluation computes nothing on the mesh itself. It names sets of images, outputs
(`evaluation.outputs`) and texts; the suite encodes them, on whatever mesh, and hands over arrays.
So figures depend on neither the mesh nor the number of hosts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import text_space_outputs
from toklip_jax.evaluation.tables import Cell

Rows = Mapping[str, np.ndarray]  # output -> one row for each image; "index" says which image
Sources = Mapping[str, Any]  # set -> the opened data source, or the generator of samples


@dataclasses.dataclass(frozen=True)
class Encodings:
    """All that an evaluation computes its figures from.

    Attributes:
        models: the models that are evaluated.
        sources: the source of each set of images.
        images: the rows of each set.
        texts: normalised features of each list of texts, float32 [n, d].
        has_baselines: whether the table also has rows of what needs no model.
    """

    models: Models
    sources: Sources
    images: Mapping[str, Rows]
    texts: Mapping[str, np.ndarray]
    has_baselines: bool


@dataclasses.dataclass(frozen=True)
class Scores:
    """The figures of one evaluation.

    Attributes:
        rows: the rows of its table, each with the model's name under `model`; figures have ASCII
            names (`tables.figure_label` gives those for people).
        details: data that the report draws: `confusion`, `code_counts`. Plain lists and numbers.
    """

    rows: list[dict[str, Cell]]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Evaluation:
    """Base of the kinds, which are frozen dataclasses of a config section's fields.

    Attributes:
        about: one sentence for the report: what the table shows.
        optional_roles: roles of models without which some of its figures are left out.
    """

    about: ClassVar[str] = ""
    optional_roles: ClassVar[tuple[str, ...]] = ()

    def sets(self) -> dict[str, ImageSource]:
        """Returns the sets of images by name: configs of data sources, or generators."""
        raise NotImplementedError

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        """Returns the outputs wanted of each set, without those whose models aren't there.

        Raises:
            ValueError: nothing is left to compute a figure from.
        """
        raise NotImplementedError

    def texts(self, sources: Sources) -> dict[str, list[str]]:
        """Returns lists of texts to encode, by name.

        Raises:
            ValueError: class names that don't fit the data.
        """
        return {}

    def score(self, data: Encodings) -> Scores:
        """Returns the figures."""
        raise NotImplementedError


def features_of(rows: Rows) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and the features of each model that can be compared with texts."""
    for output, name in text_space_outputs().items():
        if output in rows:
            yield name, rows[output]
