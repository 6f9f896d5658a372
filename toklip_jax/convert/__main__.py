"""The weight converter's command; `cli/convert.py` is what it runs."""

import sys

from toklip_jax.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
