"""Measures how well a tokenizer restores images: PSNR, SSIM, rFID, and its codebooks' usage."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources
from toklip_jax.evaluation.baselines import fit_patch_codebook
from toklip_jax.evaluation.batches import padded_batches
from toklip_jax.evaluation.fid import fid, read_statistics
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, present_outputs
from toklip_jax.metrics import (
    AnyArray,
    CodeUsage,
    Estimate,
    Frechet,
    Mean,
    psnr,
    ssim,
)
from toklip_jax.ops.pixels import to_unit_range

BATCH = 256  # images that the baseline reconstructs at a time
MAX_CENTRES = 16_384  # of k-means: the largest codebook of one released tokenizer


@dataclasses.dataclass(frozen=True)
class Reconstruct(Evaluation):
    """PSNR, SSIM, rFID, and how much of the codebooks is used.

    rFID, where Inception's weights are among the models, is between the reconstructions and the
    images, or the statistics in `reference`.

    Attributes:
        source: images.
        reference: an .npz of statistics in the ADM evaluator's layout.
        baseline: images to fit k-means patches to, a tokenizer of the same rate; for small sets.
    """

    source: ImageSource
    reference: str = ""
    baseline: ImageSource | None = None

    about: ClassVar[str] = "How much of an image is left when it is drawn again from its ids."
    optional_roles: ClassVar[tuple[str, ...]] = ("inception",)

    def sets(self) -> dict[str, ImageSource]:
        return {"test": self.source} | ({"baseline": self.baseline} if self.baseline else {})

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        outputs = available_outputs(models, ("ids", "psnr", "ssim"), "reconstruction")
        outputs += present_outputs(models, ("inception", "inception_restored"))
        if self.reference and "inception" in outputs:
            read_statistics(self.reference)  # before hours of encoding, as it may be missing
        if not (has_baselines and self.baseline):
            return {"test": outputs}
        return {"test": (*outputs, "pixels"), "baseline": ("pixels",)}

    def score(self, data: Encodings) -> Scores:
        rows, vq = data.images["test"], data.models.vq_config
        if "psnr" not in rows:
            raise UserError(
                "expected images to compare with their reconstructions, got ids alone: use the "
                "evaluation generation for generated ids"
            )
        usage = CodeUsage.from_ids(rows["ids"], vq.codebook_sizes)
        figures = Reconstruction(
            *(Mean.from_values(rows[name]).compute() for name in ("psnr", "ssim")),
            *usage.compute(),
        )
        table = [{"model": "VQ", **figures._asdict()}]
        if "inception" in rows:
            table[0]["rfid"] = self._rfid(rows)
        if data.has_baselines and self.baseline:
            table.append(_baseline_row(vq, data.images["baseline"]["pixels"], rows["pixels"]))
        return Scores(table, count_details(usage))

    def _rfid(self, rows):
        restored = Frechet.from_features(rows["inception_restored"])
        if self.reference:
            return fid(restored, read_statistics(self.reference))
        return fid(restored, Frechet.from_features(rows["inception"]))


class Reconstruction(NamedTuple):
    """Figures over a set of images.

    Attributes:
        psnr: mean over images, dB.
        ssim: mean over images.
        code_usage: share of the codes that occur in the set.
        perplexity: effective number of codes; the geometric mean over several codebooks.
    """

    psnr: Estimate
    ssim: Estimate
    code_usage: float
    perplexity: float


def evaluate_reconstruction(
    tokenize: Callable[[np.ndarray], AnyArray],
    detokenize: Callable[[AnyArray], AnyArray],
    images: Float[np.ndarray, "b *size 3"] | UInt8[np.ndarray, "b *size 3"],
    *,
    batch_size: int,
    codebook_sizes: Sequence[int],
) -> Reconstruction:
    """Measures `detokenize(tokenize(images))` against `images`.

    Args:
        tokenize: float32 images in [-1, 1] to ids, int [b, n] or [b, n, q].
        detokenize: ids to images, nominally in [-1, 1]; clipped to it before they are compared.
        images: uint8, or float in [-1, 1].
        batch_size: images a call; it changes no figure.
        codebook_sizes: the number of codes in each codebook.

    Raises:
        ValueError: an id is outside its codebook, or the images are too small for SSIM.
    """
    ratios, similarities, usage = Mean.empty(), Mean.empty(), CodeUsage.empty(codebook_sizes)
    for (batch,), mask in padded_batches((images,), batch_size):
        originals = jnp.asarray(to_unit_range(batch))
        ids = tokenize(np.asarray(originals))
        restored = jnp.clip(jnp.asarray(detokenize(ids), jnp.float32), -1, 1)
        ratio, similarity = _compare(originals, restored)
        ratios = ratios.merge(Mean.from_values(ratio, mask))
        similarities = similarities.merge(Mean.from_values(similarity, mask))
        usage = usage.merge(CodeUsage.from_ids(ids, codebook_sizes, mask))
    return Reconstruction(ratios.compute(), similarities.compute(), *usage.compute())


def count_details(usage: CodeUsage) -> dict[str, Any]:
    """Returns how often each code occurs, for the report: a list, or one for each codebook."""
    counts = [counts.tolist() for counts in usage.counts]
    return {"code_counts": counts[0] if len(counts) == 1 else counts}


def _baseline_row(vq, train, test) -> dict[str, Any]:
    """The row of k-means patches that spend as many bits on a place as the tokenizer does.

    A place of q ids has prod(codebook_sizes) values. Where those are more than k-means can fit, or
    than there are patches, it fits fewer, and the row's name says so.
    """
    size = train.shape[1:-1]
    grid, num_values = vq.grid_of(*size), math.prod(vq.codebook_sizes)
    num_centres = min(num_values, MAX_CENTRES, len(train) * math.prod(grid))
    patch = [side // places for side, places in zip(size, grid, strict=True)]
    patches = fit_patch_codebook(train, tuple(patch), num_centres)
    figures = evaluate_reconstruction(
        patches.tokenize,
        patches.detokenize,
        test,
        batch_size=BATCH,
        codebook_sizes=(num_centres,),
    )
    bits = math.log2(num_values)
    name = "k-means patches"
    if num_centres < num_values:
        name += f" ({num_centres:,} centres for the tokenizer's {bits:.3g} bits a place)"
    return {"model": name, **figures._asdict()}


@jax.jit
def _compare(originals, restored):
    return psnr(originals, restored), ssim(originals, restored)
