"""Configs by name: `--config=demo` is the demo's, of the package or of the checkout."""

import importlib.resources
import pathlib
import re

from toklip_jax.core.fields import check_name
from toklip_jax.core.home import expand_user

PACKAGE = "toklip_jax.configs"  # the folder configs/, as an installed package has it
CHECKOUT = pathlib.Path(__file__).parents[2] / "configs"
BARE = re.compile(r"\w+")


def config_file(text: str) -> str:
    """Returns the file of a config, with the options that follow its colon.

    Args:
        text: a path, whose "~" is expanded, or the name of a config of the package; a file that
            exists comes first.

    Raises:
        ValueError: no config of the package has the name; suggests the nearest.
    """
    name, colon, options = text.partition(":")
    path = expand_user(name)
    if BARE.fullmatch(name) and not path.exists():
        found = _configs()
        path = found[check_name("a path, or a config of the package", name, found)]
    return f"{path}{colon}{options}"


def packaged_configs() -> list[str]:
    """Returns the names of the configs that the package has, sorted."""
    return list(_configs())


def _configs() -> dict[str, pathlib.Path]:
    try:
        folder = importlib.resources.files(PACKAGE)
    except ModuleNotFoundError:  # not installed
        folder = CHECKOUT
    found = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    return {
        name.removesuffix(".py"): path
        for name, path in sorted(found.items())
        if name.endswith(".py") and not name.startswith("_")
    }
