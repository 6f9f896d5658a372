"""Measures how much ids mean to simple learners on frozen features: the paper's claim as a table.

Code vectors, TokLIP's tokens and its pooled feature are computed from the same ids, so a cache of
ids is enough for them; the teacher's feature is computed from pixels.
"""

import dataclasses
from typing import ClassVar

from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.label_maps import expect_labels, labels_by_name
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs
from toklip_jax.evaluation.probe import knn, linear_probe

FEATURES = {
    "code": "VQ code vectors, mean",
    "token": "TokLIP tokens, mean",
    "image": "TokLIP, pooled",
    "teacher": "teacher, pooled",
}


@dataclasses.dataclass(frozen=True)
class Meaning(Evaluation):
    """Accuracy of a linear probe and of k nearest neighbours on each feature.

    Attributes:
        train: labelled images that the learners are fitted to; their features are held in memory.
        test: other images of the same classes, which are matched by name where both data sets
            know theirs.
    """

    train: ImageSource
    test: ImageSource

    about: ClassVar[str] = (
        "How much of what an image shows its ids and tokens tell a simple classifier."
    )

    def sets(self) -> dict[str, ImageSource]:
        return {"train": self.train, "test": self.test}

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        wanted = ("labels", *available_outputs(models, tuple(FEATURES), "meaning"))
        return {"train": wanted, "test": wanted}

    def score(self, data: Encodings) -> Scores:
        train, test = data.images["train"], data.images["test"]
        classes = {part: getattr(source, "classes", None) for part, source in data.sources.items()}
        expect_labels(train["labels"], classes["train"], "the training images")
        test_labels = labels_by_name(test["labels"], classes["test"], classes["train"])
        table = []
        for output, label in FEATURES.items():
            if output in train and output in test:
                arrays = train[output], train["labels"], test[output], test_labels
                figures = {"linear_probe": linear_probe(*arrays), "knn": knn(*arrays)}
                table.append({"model": label, **figures})
        return Scores(table)
