"""LlamaGen's text-conditional GPT-XL, trained on a cache of ids and of captions' features.

    python -m toklip_jax.encode --config=configs/gen_t2i_xl.py --output=CACHE [flags]
    python -m toklip_jax.main --config=configs/gen_t2i_xl.py --workdir=runs/gen_t2i_xl \\
        --config.generator.cache=CACHE [flags]

The flags name the pairs (`--config.source.shards`), the VQ tokenizer
(`--config.generator.init.tokenizer`), and the directory of Flan-T5-XL from the Hugging Face hub
(`--config.generator.init.text_encoder` and `--config.text.tokenizer`). Captions are 120 tokens of
its encoder, computed once, when the cache is made; a run on the cache may leave `init.text_encoder`
empty. Another encoder of T5's family has another `generator.model.caption_dim`.

`:size=l` takes another of LlamaGen's sizes, `:image_size=512` its second stage. The recipe is that
of classes but for the data: one pass over 50 million pairs, one crop of each.
"""

import pathlib
import runpy

from ml_collections import ConfigDict, FieldReference

from toklip_jax.core.fields import check_name, read_options
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.generator.sizes import T5_XL, TRANSFORMERS

# By path: configs are files and not a package.
classes = runpy.run_path(str(pathlib.Path(__file__).with_name("gen_c2i_b_256.py")))
SAMPLES = 50_000_000  # of LlamaGen's first stage, a part of LAION-COCO
GRIDS = {"256": (16, 16), "512": (32, 32)}
DEFAULTS = {"size": "xl", "image_size": "256"}


def get_config(options: str = "") -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    Args:
        options: "size=NAME,image_size=256|512", each of them optional.

    Raises:
        ValueError: other options.
    """
    chosen = read_options(options, DEFAULTS)
    transformer = TRANSFORMERS[check_name("a size", chosen["size"], TRANSFORMERS)]
    grid = GRIDS[check_name("an image_size", chosen["image_size"], GRIDS)]
    gpt = GPTConfig(*transformer, grid=grid, **T5_XL)
    config = classes["released"](gpt, image_size=int(chosen["image_size"]))
    config.source = {"kind": "webdataset", "shards": "path/to/pairs/{00000..04999}.tar"}
    config.text.tokenizer = "path/to/flan-t5-xl"
    config.text.context_length = gpt.caption_length
    config.encode.update(crops=1, features=("captions",), has_text=True, has_labels=False)
    stage = config.generator
    stage.init.update(tokenizer="path/to/vq_ds16_t2i.pt", text_encoder="path/to/flan-t5-xl")
    stage.loop.steps = FieldReference(SAMPLES) // stage.get_ref("batch_size")
    return config
