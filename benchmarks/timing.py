"""Times functions: warmed up, in turn, on fresh inputs; the median is taken."""

import dataclasses
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One contender.

    Attributes:
        run: computes from inputs as `place` left them, and returns when the result is there.
        place: puts a repetition's inputs, NumPy arrays, where `run` takes them; not timed.
    """

    run: Callable[..., Any]
    place: Callable[..., Any] = lambda *inputs: inputs


class Quiet:
    """Tells when other work slows the machine, by the rate of one product before and after a round.

    Attributes:
        least: the share of the best rate so far that both have to reach.
        rates: the lower of both, in FLOP/s, of the rounds that were kept.
        repeated: rounds that were not.
    """

    SIDE = 2048  # a product of this side fills caches and takes a tenth of a second on a CPU

    def __init__(self, least: float = 0.8, most_repeated: int = 1):
        self.least, self.most_repeated = least, most_repeated
        self.rates, self.repeated, self.best = [], 0, 0.0
        self._inputs = None

    def rate(self) -> float:
        """Returns FLOP/s, the better of two products."""
        if self._inputs is None:
            x = np.random.default_rng(0).standard_normal((self.SIDE, self.SIDE), np.float32)
            self._inputs = jnp.asarray(x)
            self._product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
            self._product(self._inputs).block_until_ready()
        case = Case(lambda x: self._product(x).block_until_ready())
        return 2 * self.SIDE**3 / min(timed(case, (self._inputs,)) for _ in range(2))

    def keeps(self, before: float, after: float) -> bool:
        """Returns whether a round counts; only so many are repeated, however loud it is."""
        lower, self.best = min(before, after), max(before, after, self.best)
        if lower < self.least * self.best and self.repeated < self.most_repeated:
            self.repeated += 1
            return False
        self.rates.append(lower)
        return True

    def record(self) -> dict[str, Any]:
        """Returns what results say of it."""
        return {"product_rates": self.rates, "best_rate": self.best, "repeated": self.repeated}


def alternate(
    cases: Mapping[str, Case],
    draw: Callable[[np.random.Generator], tuple[Any, ...]],
    repetitions: int = 8,
    runs: int = 1,
    quiet: Quiet | None = None,
) -> dict[str, list[float]]:
    """Returns each case's seconds, round by round.

    All cases see the same inputs, drawn again each time, and run one after the other, so that what
    else the machine does meets all of them alike. The first round warms up and is not kept.

    Args:
        repetitions: rounds that count.
        runs: in a case's turn, of which the last counts. A loop of steps, which takes its memory
            again at once, needs two: what lay free while the others ran is cold, and a virtual
            machine's host may have taken it back.
        quiet: decides which rounds are repeated; every round counts without it.
    """
    random = np.random.default_rng()
    seconds = {name: [] for name in cases}
    is_warm = False
    while any(len(times) < repetitions for times in seconds.values()):
        inputs = draw(random)
        before = quiet.rate() if quiet else 0.0
        taken = {
            name: [timed(case, inputs) for _ in range(runs)][-1] for name, case in cases.items()
        }
        is_kept = is_warm and (quiet is None or quiet.keeps(before, quiet.rate()))
        is_warm = True
        if is_kept:
            for name, times in seconds.items():
                times.append(taken[name])
    return seconds


def timed(case: Case, inputs: tuple[Any, ...]) -> float:
    """Returns the seconds of one run."""
    placed = case.place(*inputs)
    start = time.perf_counter()
    case.run(*placed)
    return time.perf_counter() - start


def compare(
    seconds: Mapping[str, list[float]], ours: str, peer: str, what: str, bar: float | None
) -> dict[str, Any]:
    """Returns a row of the table: both medians, and how many times faster we are."""
    own, other = (statistics.median(seconds[name]) for name in (ours, peer))
    best = [min(seconds[name]) for name in (ours, peer)]
    row = {
        "what": what,
        "peer": peer,
        "ours_seconds": own,
        "peer_seconds": other,
        "ratio": other / own,
        "ratio_of_best": best[1] / best[0],
        "lowest_to_highest": [
            [min(seconds[name]), max(seconds[name])] for name in (ours, peer)
        ],  # ours, peer
    }
    return row | against_bar(other / own, bar)


def against_bar(value: float, bar: float | None, is_most: bool = False) -> dict[str, Any]:
    """Returns the bar, and whether `value` meets it: at least it, or at most where `is_most`."""
    if bar is None:
        return {"bar": None, "is_met": None}
    return {"bar": bar, "is_met": value <= bar if is_most else value >= bar}


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on, with the load that others put on it."""
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    return {
        "device": f"{os.cpu_count()} cores, {processor()}" if is_cpu else device.device_kind,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def processor() -> str:
    """Returns the processor's name and model number, which names of virtual machines leave out."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = [re.search(rf"^{field}\s*: (.*)", text, re.M) for field in ("model name", "model")]
    return ", model ".join(match[1].strip() for match in found if match) or platform.machine()
