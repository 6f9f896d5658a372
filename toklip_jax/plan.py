"""`python -m toklip_jax.plan`; `cli/plan.py` is what it runs."""

import sys

from toklip_jax.cli.plan import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
