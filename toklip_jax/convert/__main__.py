"""The weight converter's command; `cli/convert.py` is what it runs."""

import signal
import sys

from toklip_jax.cli.convert import main

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it, as it does other tools
    sys.exit(main(sys.argv[1:]))
