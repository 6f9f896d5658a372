"""`python -m toklip_jax.encode`; `cli/encode.py` is what it runs."""

import sys

from toklip_jax.cli.encode import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
