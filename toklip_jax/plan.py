"""`python -m toklip_jax.plan`; `cli/plan.py` is what it runs."""

import sys

from toklip_jax.core.imports import start_command

if __name__ == "__main__":
    sys.exit(start_command("toklip_jax.cli.plan", sys.argv[1:]))
