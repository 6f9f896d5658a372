"""The names that taming-transformers' VQGAN has in PyTorch."""

import logging

from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.taming.config import TamingConfig
from toklip_jax.models.taming.sizes import SIZES
from toklip_jax.models.vqgan_names import BESIDE, MARKS, is_vqgans, sizes_of, vqgan_rules

logger = logging.getLogger(__name__)


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> TamingConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    size, dim = shape_of(tensors, f"{prefix}quantize.embedding.weight", 2)
    sizes = sizes_of(tensors, prefix)
    config = TamingConfig(
        size, dim, **sizes.without_attention(), attention_levels=sizes.attention_levels
    )
    if config not in SIZES.values() and hints.family is None:
        logger.warning(
            "took these weights for taming's VQGAN, whose published sizes they don't have: others "
            "have the same names, and other ids; family='taming' or 'ibq' says which"
        )
    return config


def rules(config: TamingConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    return vqgan_rules(len(config.multipliers), source, target)


KEYS = ForeignKeys(MARKS, infer, rules, fits=is_vqgans, unused=BESIDE)
