"""TokLIP-XL at 512 px: the recipe of `toklip_s_256.py` on IBQ's VQ tokenizer of 262,144 codes.

The batch of the released XL is not known here. All but the sizes is the recipe of S and L, with 16
images a chip, whose pixels are those of 28 images at 384 px.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

# By path: configs are files and not a package.
released = runpy.run_path(str(pathlib.Path(__file__).with_name("toklip_s_256.py")))["released"]


def get_config() -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    IBQ's file holds raw weights and their running mean. A run takes the mean, and says so; to start
    from the raw ones, as the released XL did, convert the file with `--weights=raw` first.
    """
    config = released("toklip_xl_512", "siglip2_so400m_512", 512, 16, remat="full")
    config.toklip.init.vq = "path/to/imagenet256_262144.ckpt"
    return config
