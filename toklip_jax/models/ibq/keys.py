"""The names that IBQ's tokenizers have in PyTorch, alone or within TokLIP-XL."""

import logging
from collections.abc import Sequence

from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.models.vqgan_names import BESIDE, MARKS, is_vqgans, sizes_of, vqgan_rules

logger = logging.getLogger(__name__)

RES_BLOCKS = 4  # in every published size; taming's have 2
MEAN = "model_ema."
COUNTERS = ("decay", "num_updates")
CARRIED = "IBQ's own running mean of its weights, which the model around it doesn't run"


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> IBQConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    if hints.family is None and not _is_certain(tensors, prefix):
        logger.warning(
            "took %s for IBQ's, though it has another depth: taming's has the same names, and "
            "other ids; family='taming' or 'ibq' says which",
            "the VQ tokenizer within these weights" if prefix else "this tokenizer",
        )
    size, dim = shape_of(tensors, f"{prefix}quantize.embedding.weight", 2)
    sizes = sizes_of(tensors, prefix)
    return IBQConfig(
        size, dim, **sizes.without_attention(), attention_levels=sizes.attention_levels
    )


def rules(config: IBQConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    own = vqgan_rules(len(config.multipliers), source, target)
    return [*own, *_running_mean_rules(own, source)]


def _running_mean_rules(own: Sequence[Rule], source: str) -> list[Rule]:
    """The copies that TokLIP-XL's file has of every tensor, by its name without dots."""
    names = [rule.source.removeprefix(source).replace(".", "") for rule in own]
    return [Rule(f"{source}{MEAN}{n}", None, reason=CARRIED) for n in (*COUNTERS, *names)]


def _fits(tensors: Tensors, prefix: str) -> bool:
    """Depth, a running mean, or a place within TokLIP tells it from others of the same names."""
    if not is_vqgans(tensors, prefix):
        return False
    is_within = prefix != "" and bool(sizes_of(tensors, prefix).attention_levels)
    return is_within or _has_mean(tensors, prefix) or _is_certain(tensors, prefix)


def _is_certain(tensors, prefix):
    """Others, of latent diffusion for example, keep running means of taming's tokenizer too."""
    if prefix and _has_mean(tensors, prefix):
        return True
    sizes = sizes_of(tensors, prefix)
    return sizes.num_res_blocks == RES_BLOCKS and bool(sizes.attention_levels)


def _has_mean(tensors, prefix):
    return f"{prefix}{MEAN}decay" in tensors


KEYS = ForeignKeys(MARKS, infer, rules, fits=_fits, unused=BESIDE)
