"""LlamaGen's text-conditional GPT-XL at 256 px, on ids and captions' features of a cache.

    python -m toklip_jax.main --config=configs/gen_t2i_xl.py --workdir=runs/gen_t2i \\
        --config.generator.cache=CACHE --config.generator.init.tokenizer=vq_ds16_t2i.pt

The condition is 120 tokens of Flan-T5-XL; docs/generation.md says how to cache them.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from toklip_jax.models.generator.sizes import SIZES

# By path: configs are files and not a package.
released = runpy.run_path(str(pathlib.Path(__file__).with_name("gen_c2i_b_256.py")))["released"]


def get_config() -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`."""
    config = released(SIZES["gpt_xl_t2i_256"].gpt, image_size=256)
    config.generator.init.tokenizer = "path/to/vq_ds16_t2i.pt"
    return config
