"""Compares generated images with real ones by FID, and measures code usage where there are ids."""

import dataclasses
from typing import ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources
from toklip_jax.evaluation.fid import fid, read_statistics
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, present_outputs
from toklip_jax.evaluation.reconstruction import count_details
from toklip_jax.metrics import CodeUsage, Frechet


@dataclasses.dataclass(frozen=True)
class Generation(Evaluation):
    """FID of generated images against real ones, or statistics of such, and the use of codes.

    Ids are decoded by the VQ tokenizer among the models.

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
        if self.reference:
            read_statistics(self.reference)  # before hours of encoding, as it may be missing
        wanted = {"samples": (*features, *present_outputs(models, ("ids",)))}
        return wanted | ({"real": features} if self.real else {})

    def score(self, data: Encodings) -> Scores:
        rows, figures, details = data.images["samples"], {}, {}
        if "inception" in rows:
            figures["fid"] = fid(Frechet.from_features(rows["inception"]), self._reference(data))
        if "ids" in rows:
            usage = CodeUsage.from_ids(rows["ids"], data.models.vq_config.codebook_sizes)
            figures["code_usage"], figures["perplexity"] = usage.compute()
            details = count_details(usage)
        return Scores([{"model": "samples", **figures}], details)

    def _reference(self, data):
        if self.reference:
            return read_statistics(self.reference)
        return Frechet.from_features(data.images["real"]["inception"])
