"""How well a tokenizer keeps images: PSNR, SSIM, and how much of its codebook it uses."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from toklip_jax.evaluation.base import Encodings, Evaluation, Judgement, SourceConfig, Sources, want
from toklip_jax.evaluation.baselines import fit_patch_codebook
from toklip_jax.evaluation.batches import padded_batches
from toklip_jax.evaluation.fid import read_statistics, rfid
from toklip_jax.evaluation.subject import Subject
from toklip_jax.metrics import (
    AnyArray,
    CodeUsage,
    Estimate,
    Frechet,
    Mean,
    psnr,
    ssim,
    to_unit_range,
)

BATCH = 256  # of the baseline's pictures


@dataclasses.dataclass(frozen=True)
class Reconstruct(Evaluation):
    """PSNR, SSIM, rFID, and how much of the codebook is used.

    rFID, where Inception's weights are among the models, is between the reconstructions and the
    images, or the statistics in `reference`.

    Attributes:
        source: images.
        reference: an .npz in the ADM evaluator's layout.
        baseline: images to fit k-means patches to, a tokenizer of the same rate; for small sets.
    """

    source: SourceConfig
    reference: str = ""
    baseline: SourceConfig | None = None

    def sets(self) -> dict[str, SourceConfig]:
        return {"test": self.source} | ({"baseline": self.baseline} if self.baseline else {})

    def outputs(
        self, subject: Subject, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        outputs = want(subject, ("ids", "psnr", "ssim"), "reconstruction")
        outputs += subject.only(("inception", "inception_restored"))
        if not (has_baselines and self.baseline):
            return {"test": outputs}
        return {"test": (*outputs, "pixels"), "baseline": ("pixels",)}

    def judge(self, data: Encodings) -> Judgement:
        rows, size = data.pictures["test"], data.subject.vq_config.codebook_size
        usage = CodeUsage.from_ids(rows["ids"], size)
        figures = Reconstruction(
            *(Mean.from_values(rows[name]).compute() for name in ("psnr", "ssim")),
            *usage.compute(),
        )
        table = [{"model": "VQ", **figures._asdict()}]
        if "inception" in rows:
            table[0]["rfid"] = self._rfid(rows)
        if data.has_baselines and self.baseline:
            table.append(self._baseline_row(data))
        return Judgement(table, {"code_counts": usage.counts.tolist()})

    def _rfid(self, rows):
        restored = Frechet.from_features(rows["inception_restored"])
        if self.reference:
            return rfid(restored, read_statistics(self.reference))
        return rfid(restored, Frechet.from_features(rows["inception"]))

    def _baseline_row(self, data):
        vq = data.subject.vq_config
        images = data.pictures["baseline"]["pixels"]
        patches = fit_patch_codebook(images, vq.downsample, vq.codebook_size)
        figures = evaluate_reconstruction(
            *(patches.tokenize, patches.detokenize, data.pictures["test"]["pixels"]),
            *(BATCH, vq.codebook_size),
        )
        return {"model": "k-means patches", **figures._asdict()}


class Reconstruction(NamedTuple):
    """Figures over a set of images.

    Attributes:
        psnr: mean over images, dB.
        ssim: mean over images.
        code_usage: share of the codes that occur in the set.
        perplexity: effective number of codes.
    """

    psnr: Estimate
    ssim: Estimate
    code_usage: float
    perplexity: float


def evaluate_reconstruction(
    tokenize: Callable[[np.ndarray], AnyArray],
    detokenize: Callable[[AnyArray], AnyArray],
    images: Float[np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"],
    batch_size: int,
    codebook_size: int,
) -> Reconstruction:
    """Measures `detokenize(tokenize(images))` against `images`.

    Args:
        tokenize: float32 images in [-1, 1] to ids, int [b, n].
        detokenize: ids to images, nominally in [-1, 1]; clipped to it before they are compared.
        images: uint8, or float in [-1, 1].
        batch_size: images a call; it changes no figure.
        codebook_size: number of codes.

    Raises:
        ValueError: an id lies outside the codebook, or the images are too small for SSIM.
    """
    ratios, similarities, usage = Mean.empty(), Mean.empty(), CodeUsage.empty(codebook_size)
    for (batch,), mask in padded_batches((images,), batch_size):
        originals = jnp.asarray(to_unit_range(batch))
        ids = tokenize(np.asarray(originals))
        restored = jnp.clip(jnp.asarray(detokenize(ids), jnp.float32), -1, 1)
        ratio, similarity = _compare(originals, restored)
        ratios = ratios.merge(Mean.from_values(ratio, mask))
        similarities = similarities.merge(Mean.from_values(similarity, mask))
        usage = usage.merge(CodeUsage.from_ids(ids, codebook_size, mask))
    return Reconstruction(ratios.compute(), similarities.compute(), *usage.compute())


@jax.jit
def _compare(originals, restored):
    return psnr(originals, restored), ssim(originals, restored)
