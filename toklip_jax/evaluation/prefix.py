"""Measures accuracy from the first quarter, half and three quarters of the ids, and from all.

The token encoder is causal, so its first tokens are those that it gives where there are no further
ids yet, as while an autoregressive model is writing.
"""

import dataclasses
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.label_maps import expect_labels, label_rows, labels_by_name
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs
from toklip_jax.evaluation.outputs.features import PREFIXES
from toklip_jax.evaluation.probe import knn, linear_probe
from toklip_jax.evaluation.prompt_sets import templates
from toklip_jax.evaluation.zeroshot import accuracy_in_blocks, class_rows, prompt_means, prompts


@dataclasses.dataclass(frozen=True)
class Prefix(Evaluation):
    """Top-1 accuracy from the first ids: by class names, and by probes on the mean of their tokens.

    Attributes:
        source: labelled images.
        classes: see `zeroshot.ZeroShot.classes`.
        templates: see `zeroshot.ZeroShot.templates`.
        train: labelled images for a linear probe and neighbours; None for class names alone.
    """

    source: ImageSource
    classes: str = ""
    templates: str = "imagenet_80"
    train: ImageSource | None = None

    about: ClassVar[str] = (
        "What the first ids alone say: attention is causal, so an image can be cut short."
    )

    def sets(self) -> dict[str, ImageSource]:
        return {"test": self.source} | ({"train": self.train} if self.train else {})

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        available_outputs(models, ("prefix",), "prefix")
        if not models.config("toklip").vision.is_causal:
            raise UserError(
                "expected a causal token encoder for the evaluation prefix, got one that sees all "
                "ids at once: leave the evaluation out"
            )
        if not self.train:
            return {"test": ("labels", "prefix")}
        return {"test": ("labels", "prefix", "prefix_token"), "train": ("labels", "prefix_token")}

    def texts(self, sources: Sources) -> dict[str, list[str]]:
        names, _ = class_rows(self.classes, sources["test"])
        return {"classes": prompts(names, templates(self.templates))}

    def score(self, data: Encodings) -> Scores:
        test = data.images["test"]
        _, to_row = class_rows(self.classes, data.sources["test"])
        labels = label_rows(test["labels"], to_row)
        classifier = prompt_means(data.texts["classes"], len(templates(self.templates)))
        by_names = {"model": "class names, pooled"}
        for i, share in enumerate(PREFIXES):
            hits, _ = accuracy_in_blocks(test["prefix"][:, i], labels, classifier)
            by_names[f"first_{share}"] = hits.compute()[1]
        return Scores([by_names, *self._learned(data)])

    def _learned(self, data):
        if not self.train:
            return []
        train, test = data.images["train"], data.images["test"]
        classes = {part: getattr(source, "classes", None) for part, source in data.sources.items()}
        expect_labels(train["labels"], classes["train"], "the training images")
        test_labels = labels_by_name(test["labels"], classes["test"], classes["train"])
        rows = [{"model": "linear probe, mean token"}, {"model": "kNN, mean token"}]
        for i, share in enumerate(PREFIXES):
            train_x, test_x = train["prefix_token"][:, i], test["prefix_token"][:, i]
            for row, learner in zip(rows, (linear_probe, knn), strict=True):
                accuracy = learner(train_x, train["labels"], test_x, test_labels)
                row[f"first_{share}"] = accuracy
        return rows
