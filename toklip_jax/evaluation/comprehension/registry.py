"""The one list of comprehension benchmarks; `register_benchmark` adds those of other packages."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import add_new, check_name, check_section, from_fields
from toklip_jax.evaluation.comprehension.base import Benchmark
from toklip_jax.evaluation.comprehension.gqa import GQA
from toklip_jax.evaluation.comprehension.mmbench import MMBench
from toklip_jax.evaluation.comprehension.mme import MME
from toklip_jax.evaluation.comprehension.mmmu import MMMU
from toklip_jax.evaluation.comprehension.pope import POPE
from toklip_jax.evaluation.comprehension.scienceqa import ScienceQA
from toklip_jax.evaluation.comprehension.seed_bench import SEEDBench
from toklip_jax.evaluation.comprehension.textvqa import TextVQA
from toklip_jax.evaluation.comprehension.vqav2 import VQAv2

BENCHMARKS: dict[str, type[Benchmark]] = {
    "gqa": GQA,
    "mmbench": MMBench,
    "mme": MME,
    "mmmu": MMMU,
    "pope": POPE,
    "scienceqa": ScienceQA,
    "seed_bench": SEEDBench,
    "textvqa": TextVQA,
    "vqav2": VQAv2,
}


def register_benchmark(kind: str, cls: type[Benchmark]) -> None:
    """Makes `cls`, a frozen dataclass, the benchmark of sections of this kind.

    Raises:
        ValueError: another class has the name, or it is no dataclass of this kind.
    """
    if not (dataclasses.is_dataclass(cls) and issubclass(cls, Benchmark)):
        raise UserError(f"expected a dataclass that is a Benchmark for {kind!r}, got {cls!r}")
    add_new(BENCHMARKS, kind, cls, "a kind of benchmark")


def build_benchmark(section: Mapping[str, Any], where: str = "the benchmark") -> Benchmark:
    """Returns the benchmark of a config's section {"kind": ..., fields of that kind's class}.

    Args:
        where: the section's name, for messages.

    Raises:
        ValueError: an unknown kind or field, which names the nearest, or one of another type.
    """
    if "kind" not in check_section(section, where):
        raise UserError(f"expected a kind in {where}, got {sorted(section)}")
    kind = check_name(f"the kind of {where}", section["kind"], BENCHMARKS)
    fields = {name: value for name, value in section.items() if name != "kind"}
    return from_fields(BENCHMARKS[kind], fields, where)


def kind_of(benchmark: Benchmark) -> str:
    """Returns the kind under which a benchmark's class is registered.

    Raises:
        ValueError: it is not.
    """
    for kind, cls in BENCHMARKS.items():
        if type(benchmark) is cls:
            return kind
    raise UserError(
        f"expected a benchmark among {sorted(BENCHMARKS)}, got a {type(benchmark).__name__}: call "
        f"register_benchmark with it"
    )
