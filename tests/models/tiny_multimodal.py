"""A tiny multimodal model with TokLIP inside, and lines of conversations for it."""

import functools

import flax.traverse_util
import jax
import numpy as np

from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.registry import init_params
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute

COMPUTE = Compute(is_scanned=False)
VOCABULARY, CODES = 48, 32
VQ = LlamaGenConfig(
    CODES, channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=8
)
VISION = VisionConfig(32, 1, 4, 32, image_size=16, patch_size=8, is_causal=True)
TOKLIP = TokLIPConfig(VQ, VISION, TextConfig(32, 1, 4, 32, vocab_size=16, context_length=4))
LANGUAGE_MODEL = QwenConfig(16, 2, 2, 1, 32, vocab_size=VOCABULARY, max_positions=128)
CONFIG = MultimodalConfig(LANGUAGE_MODEL, TOKLIP, reads=("tokens", "codes", "ids"), lora_rank=2)


@functools.cache
def params_of(config=CONFIG):
    """Random parameters, of LoRA too, so that everything has an effect."""
    shapes = jax.eval_shape(lambda key: init_params(config, COMPUTE, key), jax.random.key(0))
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.standard_normal(x.shape) * 0.3 + name.endswith("scale")).astype(np.float32)
        for name, x in flat.items()
    }
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def lines(count=8, length=24, images=2, seed=0):
    """A batch of lines, each of two segments with an image, a text and padding."""
    rng = np.random.default_rng(seed)
    shape = count, length
    batch = {
        "ids": rng.integers(0, VOCABULARY, shape, np.int32),
        "labels": np.full(shape, -100, np.int32),
        "image_places": np.full(shape, -1, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
        "image_ids": rng.integers(0, CODES, (count, images, 4), np.int32),
    }
    for row in range(count):
        start = 0
        for segment in range(2):
            size = int(rng.integers(7, 11))
            at = row, slice(start, start + size)
            batch["segment_ids"][at] = segment + 1
            batch["positions"][at] = np.arange(size)
            batch["image_places"][row, start + 1 : start + 5] = segment * 4 + np.arange(4)
            trained = slice(start + 6, start + size)
            batch["labels"][row, trained] = batch["ids"][row, trained]
            start += size
    return batch
