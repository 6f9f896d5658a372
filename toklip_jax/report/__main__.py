"""`python -m toklip_jax.report`; `command.py` is what it runs."""

import sys

from toklip_jax.core.imports import start_command
from toklip_jax.core.large_pages import use_large_pages

if __name__ == "__main__":
    use_large_pages()  # may start the command again, so nothing large is imported before
    sys.exit(start_command("toklip_jax.report.command", sys.argv[1:]))
