"""TokLIP-L at 384 px: the recipe of `toklip_s_256.py`, with other sizes and 32 images a chip."""

import pathlib
import runpy

from ml_collections import ConfigDict

# By path: configs are files and not a package.
released = runpy.run_path(str(pathlib.Path(__file__).with_name("toklip_s_256.py")))["released"]


def get_config() -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    At 32 images a v5e chip has no memory left for `compute.remat="dots"`; others have.
    """
    return released("toklip_l_384", "siglip2_so400m_384", 384, 32, remat="full")
