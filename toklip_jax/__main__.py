"""The command `toklip`, and `python -m toklip_jax`; `cli/toklip.py` is what it runs."""

import sys

from toklip_jax.cli.toklip import main

if __name__ == "__main__":
    sys.exit(main())
