"""`python -m toklip_jax.encode`; `cli/encode.py` is what it runs."""

import sys

from toklip_jax.core.imports import start_command
from toklip_jax.core.large_pages import use_large_pages


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status; all that is large is imported here."""
    return start_command("toklip_jax.cli.encode", arguments)


if __name__ == "__main__":
    use_large_pages()  # may start the command again
    sys.exit(main(sys.argv[1:]))
