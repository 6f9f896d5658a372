"""Large pages for the memory of commands that compute on a CPU.

XLA allocates the temporaries of a program again each time that it runs, and glibc hands them back
to Linux each time, which then has to find and clear every page again. In pages of 2 MiB instead of
4 KiB that costs a fraction (docs/performance.md). glibc reads the setting when a program starts.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Mapping

SWITCH = "TOKLIP_LARGE_PAGES"  # "0" turns it off
TUNABLES = "GLIBC_TUNABLES"
SETTING = "glibc.malloc.hugetlb=1"
MIN_GLIBC = (2, 35)  # the first that has the setting
STATE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large_pages() -> None:
    """Starts this program again with large pages, where it computes on a CPU under Linux.

    The process keeps its id. Nothing happens where they can't be had, are used for everything
    anyway, or are configured in `GLIBC_TUNABLES` or turned off by `TOKLIP_LARGE_PAGES=0`.
    """
    environment = with_large_pages(os.environ)
    if environment == os.environ:
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def say_if_used() -> None:
    """Prints a line on standard error where this program was started with large pages."""
    if SETTING in os.environ.get(TUNABLES, ""):
        line = f"memory in large pages, for speed on a CPU ({SWITCH}=0 turns them off)"
        print(line, file=sys.stderr)


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment that gives a program large pages, where it would be faster for them.

    Everywhere else it is the same environment.
    """
    if not are_useful(environment):
        return dict(environment)
    tunables = ":".join(filter(None, (environment.get(TUNABLES), SETTING)))
    return {**environment, TUNABLES: tunables}


def are_useful(environment: Mapping[str, str]) -> bool:
    """Returns whether a program in this environment would be faster with large pages."""
    if environment.get(SWITCH) == "0" or "malloc.hugetlb" in environment.get(TUNABLES, ""):
        return False
    return _glibc() >= MIN_GLIBC and _are_on_request() and _is_on_cpu(environment)


def _glibc() -> tuple[int, ...]:
    """The version of glibc, or (0,) where the C library is another."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return (0,)
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2]) or (0,)


def _are_on_request() -> bool:
    """Whether Linux gives large pages to programs that ask for them, and to no others."""
    try:
        return "[madvise]" in STATE.read_text()
    except OSError:
        return False


def _is_on_cpu(environment) -> bool:
    """Whether JAX will compute on the CPU: it was told to, or has no plugin for anything else."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
