"""What this computer's processor can do, as far as Linux says it."""

import pathlib


def processor_flags() -> str:
    """Returns the line of `/proc/cpuinfo` with the names of the processor's instruction sets.

    It is "" where there is none.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""  # not on Linux
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
