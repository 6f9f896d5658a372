"""What the package warns of is a plain line, once."""

import subprocess
import sys

PROGRAM = """
import logging, sys, warnings
logging.basicConfig()  # as libraries do
from toklip_jax.cli.plain_log import use_plain_lines
use_plain_lines()
use_plain_lines()
logging.getLogger("toklip_jax.data.health").warning("skipped %s", "a.png")
logging.getLogger("toklip_jax.data.health").info("not said")
logging.getLogger("another").warning("as it was")
warnings.warn("look at this")
"""


def test_warnings_are_plain_lines():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == [
        "warning: skipped a.png",
        "WARNING:another:as it was",
        "warning: look at this",
    ]
    assert done.stdout == ""
