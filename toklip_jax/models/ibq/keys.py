"""The names that IBQ's tokenizers have in PyTorch, alone or within TokLIP-XL."""

from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.models.vqgan_names import MARKS, sizes_of, vqgan_rules

RES_BLOCKS = 4  # in every published size; taming's have 2
MEAN = "model_ema."


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> IBQConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    del hints
    size, dim = shape_of(tensors, f"{prefix}quantize.embedding.weight", 2)
    sizes = sizes_of(tensors, prefix)
    return IBQConfig(
        size, dim, **sizes.without_attention(), attention_levels=sizes.attention_levels
    )


def rules(config: IBQConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    return vqgan_rules(len(config.multipliers), source, target)


def _fits(tensors: Tensors, prefix: str) -> bool:
    """Depth, a running mean, or a place within TokLIP tells it from others of the same names."""
    sizes = sizes_of(tensors, prefix)
    is_deep = sizes.num_res_blocks == RES_BLOCKS and bool(sizes.attention_levels)
    return is_deep or prefix != "" or f"{prefix}{MEAN}decay" in tensors


KEYS = ForeignKeys(MARKS, infer, rules, fits=_fits)
