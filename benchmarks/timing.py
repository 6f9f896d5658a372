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


def alternate(
    cases: Mapping[str, Case],
    draw: Callable[[np.random.Generator], tuple[Any, ...]],
    repetitions: int = 5,
    runs: int = 1,
) -> dict[str, list[float]]:
    """Returns each case's seconds, repetition by repetition.

    All cases see the same inputs, drawn again each time, and run one after the other, so that what
    else the machine does meets all of them alike. The first round warms up and is not kept.

    Args:
        runs: in a case's turn, of which the last counts. A loop of steps, which takes its memory
            again at once, needs two: what lay free while the others ran is cold, and a virtual
            machine's host may have taken it back.
    """
    random = np.random.default_rng()
    seconds = {name: [] for name in cases}
    for _ in range(repetitions + 1):
        inputs = draw(random)
        for name, case in cases.items():
            seconds[name].append([timed(case, inputs) for _ in range(runs)][-1])
    return {name: times[1:] for name, times in seconds.items()}


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
    row = {
        "what": what,
        "peer": peer,
        "ours_seconds": own,
        "peer_seconds": other,
        "ratio": other / own,
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
    """Returns the processor's name as the kernel has it."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.*)", text)
    return found[1].strip() if found else platform.machine()
