"""Compares generated images with real ones: FID and its kin, and code usage where there are ids."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources
from toklip_jax.evaluation.fid import fid, read_statistics, sfid
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, present_outputs
from toklip_jax.evaluation.reconstruction import count_details
from toklip_jax.metrics import CodeUsage, Frechet, precision_recall
from toklip_jax.metrics.generation import SPLIT, inception_score

NEIGHBOURS = 3  # of precision and recall, as published
# What the sets of samples are called in tables.
TITLES = {"samples": "samples", "unguided": "samples without guidance"}


@dataclasses.dataclass(frozen=True)
class Generation(Evaluation):
    """How generated images compare with real ones, or statistics of such, and the use of codes.

    FID and, where there is something to compare with, sFID; with real images also precision and
    recall (k = 3); the inception score of the samples by themselves. The protocol that figures
    depend on is in the details. Ids are decoded by the VQ tokenizer among the models.

    Attributes:
        source: a generator of samples, or a data source of images that were generated.
        unguided: the same generator's samples without guidance, scored in a row of their own: FID
            below a tokenizer's rFID is guidance's work, so one figure alone says little. Or None.
        real: images to compare with; None where `reference` is given.
        reference: an .npz of statistics in the ADM evaluator's layout.
    """

    source: ImageSource
    unguided: ImageSource | None = None
    real: ImageSource | None = None
    reference: str = ""

    about: ClassVar[str] = "How close generated images are to real ones."
    optional_roles: ClassVar[tuple[str, ...]] = ("inception",)

    def __post_init__(self):
        if self.real and self.reference:
            raise UserError("expected either real or reference to compare with, got both")

    def sets(self) -> dict[str, ImageSource]:
        sets = {"samples": self.source, "unguided": self.unguided, "real": self.real}
        return {name: source for name, source in sets.items() if source is not None}

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        samples = [name for name in self.sets() if name in TITLES]
        scored = _classified(models)
        if not (self.real or self.reference):
            names = available_outputs(models, ("ids", *scored), "generation")
            return dict.fromkeys(samples, names)
        features = available_outputs(models, ("inception",), "generation")
        # Before hours of encoding, as it may be missing.
        has_spatial = not self.reference or read_statistics(self.reference).spatial is not None
        if features and has_spatial:
            features += ("inception_spatial",)
        names = (*features, *present_outputs(models, ("ids", *scored)))
        wanted = dict.fromkeys(samples, names)
        return wanted | ({"real": features} if self.real else {})

    def score(self, data: Encodings) -> Scores:
        rows, details, protocols = [], {}, {}
        for name in TITLES:
            if name not in data.images:
                continue
            figures, more, protocol = self._scored(data.images[name], data)
            rows.append({"model": TITLES[name], **figures})
            details |= {key if name == "samples" else f"{name}_{key}": more[key] for key in more}
            protocols |= {TITLES[name]: protocol} if protocol else {}
        if len(protocols) == 1:
            (details["protocol"],) = protocols.values()
        elif protocols:
            details["protocol"] = "; ".join(f"{name}: {text}" for name, text in protocols.items())
        return Scores(rows, details)

    def _scored(self, rows, data) -> tuple[dict[str, float], dict[str, Any], str]:
        """Figures, details and protocol of a set of samples."""
        figures, details = {}, {}
        if "inception" in rows:
            figures = self._compared(rows, data)
        if "inception_probabilities" in rows:
            figures["inception_score"] = inception_score(rows["inception_probabilities"])
        if "ids" in rows:
            usage = CodeUsage.from_ids(rows["ids"], data.models.vq_config.codebook_sizes)
            figures["code_usage"], figures["perplexity"] = usage.compute()
            details = count_details(usage)
        return figures, details, self._protocol(rows, data)

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

    def _protocol(self, rows: Mapping[str, Any], data: Encodings) -> str:
        """What the figures of Inception depend on, for people; "" where there are none."""
        found = [name for name in ("inception", "inception_probabilities") if name in rows]
        if not found:
            return ""
        parts = [f"{len(rows[found[0]])} samples"]
        if "inception" in rows and self.reference:
            parts[0] += f" against the statistics in {self.reference}"
        elif "inception" in rows:
            parts[0] += f" against {len(data.images['real']['inception'])} real images"
        parts += ["Inception of the 2015 graph", "uint8 as floor(127.5 x + 128)"]
        parts.append("resized as TensorFlow 1 does")
        if "inception_probabilities" in rows:
            parts.append(f"inception score in splits of {SPLIT}, without the classifier's bias")
        return "; ".join(parts)


def _classified(models: Models) -> tuple[str, ...]:
    """The output that the inception score needs, where Inception's weights have the classifier."""
    model = models.by_name.get("inception")
    has_classes = model is not None and model.module.config.num_classes > 0
    return ("inception_probabilities",) if has_classes else ()
