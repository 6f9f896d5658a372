"""Metrics: states that can be merged, and functions that give a number for each example."""

from toklip_jax.metrics.codes import CodeUsage, UsageSummary
from toklip_jax.metrics.frechet import Frechet, Gaussian, frechet_distance
from toklip_jax.metrics.generation import PrecisionRecall, inception_score, precision_recall
from toklip_jax.metrics.images import psnr, ssim
from toklip_jax.metrics.mean import Mean
from toklip_jax.metrics.ranking import TopK, best_ranks
from toklip_jax.metrics.state import AnyArray, Estimate, State, merge_across_hosts

__all__ = [
    "AnyArray",
    "CodeUsage",
    "Estimate",
    "Frechet",
    "Gaussian",
    "Mean",
    "PrecisionRecall",
    "State",
    "TopK",
    "UsageSummary",
    "best_ranks",
    "frechet_distance",
    "inception_score",
    "merge_across_hosts",
    "precision_recall",
    "psnr",
    "ssim",
]
