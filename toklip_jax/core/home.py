"""The "~" of the paths that users name: configs and `--flag=~/x` bring it unexpanded."""

import os
import pathlib


def expand_user(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path with its "~" expanded; that of a user who isn't known stays as it is.

    `pathlib.Path.expanduser` raises a RuntimeError for the latter.
    """
    return pathlib.Path(os.path.expanduser(path))
