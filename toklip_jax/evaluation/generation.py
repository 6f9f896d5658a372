"""Compares generated images with real ones: FID and its kin, and code usage where there are ids."""

import dataclasses
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources
from toklip_jax.evaluation.fid import fid, read_statistics, sfid
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, present_outputs
from toklip_jax.evaluation.reconstruction import count_details
from toklip_jax.metrics import CodeUsage, Frechet, precision_recall

NEIGHBOURS = 3  # of precision and recall, as published


@dataclasses.dataclass(frozen=True)
class Generation(Evaluation):
    """How generated images compare with real ones, or statistics of such, and the use of codes.

    FID and, where there is something to compare with, sFID; with real images also precision and
    recall (k = 3). The protocol that a figure depends on is in the details. Ids are decoded by the
    VQ tokenizer among the models.

    Attributes:
        source: a generator of samples, or a data source of images that were generated.
        real: images to compare with; None where `reference` is given.
        reference: an .npz of statistics in the ADM evaluator's layout.
    """

    source: ImageSource
    real: ImageSource | None = None
    reference: str = ""

    about: ClassVar[str] = "How close generated images are to real ones."
    optional_roles: ClassVar[tuple[str, ...]] = ("inception",)

    def __post_init__(self):
        if self.real and self.reference:
            raise UserError("expected either real or reference to compare with, got both")

    def sets(self) -> dict[str, ImageSource]:
        return {"samples": self.source} | ({"real": self.real} if self.real else {})

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        if not (self.real or self.reference):
            return {"samples": available_outputs(models, ("ids",), "generation")}
        features = available_outputs(models, ("inception",), "generation")
        # Before hours of encoding, as it may be missing.
        has_spatial = not self.reference or read_statistics(self.reference).spatial is not None
        if features and has_spatial:
            features += ("inception_spatial",)
        wanted = {"samples": (*features, *present_outputs(models, ("ids",)))}
        return wanted | ({"real": features} if self.real else {})

    def score(self, data: Encodings) -> Scores:
        rows, figures, details = data.images["samples"], {}, {}
        if "inception" in rows:
            figures = self._compared(rows, data)
            details["protocol"] = self._protocol(rows, data)
        if "ids" in rows:
            usage = CodeUsage.from_ids(rows["ids"], data.models.vq_config.codebook_sizes)
            figures["code_usage"], figures["perplexity"] = usage.compute()
            details |= count_details(usage)
        return Scores([{"model": "samples", **figures}], details)

    def _compared(self, rows, data) -> dict[str, float]:
        """The figures of Inception's features."""
        real = data.images.get("real", {})
        statistics = read_statistics(self.reference) if self.reference else None

        def reference(name):
            return statistics or Frechet.from_features(real[name])

        pool = rows["inception"]
        figures = {"fid": fid(Frechet.from_features(pool), reference("inception"))}
        if "inception_spatial" in rows:
            spatial = Frechet.from_features(rows["inception_spatial"])
            figures["sfid"] = sfid(spatial, reference("inception_spatial"))
        if real and min(len(pool), len(real["inception"])) > NEIGHBOURS:
            both = precision_recall(real["inception"], pool, NEIGHBOURS)
            figures |= {"precision": both.precision, "recall": both.recall}
        return figures

    def _protocol(self, rows, data) -> str:
        """What the figures depend on, for people."""
        against = (
            f"the statistics in {self.reference}"
            if self.reference
            else (f"{len(data.images['real']['inception'])} real images")
        )
        return (
            f"{len(rows['inception'])} samples against {against}; Inception of the 2015 graph; "
            f"uint8 as floor(127.5 x + 128); resized as TensorFlow 1 does"
        )
