"""The commit of the source that runs, where it runs from a checkout."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[1]  # the package
TIMEOUT = 10.0  # seconds


def source_commit(root: pathlib.Path = ROOT) -> str:
    """Returns the commit of the checkout that holds the package, or "" where there is none.

    "700d5253f1c2", or "700d5253f1c2-dirty" if tracked files were changed since. A checkout of
    something else around an installed package doesn't count.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", "__init__.py")
        return _git(root, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or not this package's
        return ""


def _git(root, *arguments):
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    return done.stdout.strip()
