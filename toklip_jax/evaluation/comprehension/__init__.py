"""Comprehension benchmarks: questions about images, asked of any model and scored as published."""

from toklip_jax.evaluation.comprehension.base import Benchmark, Question, QuestionSet
from toklip_jax.evaluation.comprehension.registry import (
    BENCHMARKS,
    build_benchmark,
    register_benchmark,
)
from toklip_jax.evaluation.comprehension.run import ask, evaluate
from toklip_jax.evaluation.comprehension.scoring import BenchmarkResult, score, write_submission

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkResult",
    "Question",
    "QuestionSet",
    "ask",
    "build_benchmark",
    "evaluate",
    "register_benchmark",
    "score",
    "write_submission",
]
