"""The names that Chameleon's VQ tokenizer has in PyTorch: the original's and Hugging Face's."""

from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.chameleon.config import ChameleonConfig
from toklip_jax.models.vqgan_names import MARKS, is_vqgans, sizes_of, vqgan_rules

WITHIN = "model.vqmodel."  # Hugging Face's `ChameleonForConditionalGeneration`


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> ChameleonConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    del hints
    size, dim = shape_of(tensors, f"{prefix}quantize.embedding.weight", 2)
    return ChameleonConfig(
        size,
        dim,
        **sizes_of(tensors, prefix).without_attention(),
        has_decoder=f"{prefix}decoder.conv_in.weight" in tensors,
    )


def rules(config: ChameleonConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    return vqgan_rules(len(config.multipliers), source, target)


def _fits(tensors: Tensors, prefix: str) -> bool:
    """Attention in no level tells it from others with the same names."""
    return is_vqgans(tensors, prefix) and not sizes_of(tensors, prefix).attention_levels


KEYS = ForeignKeys(MARKS, infer, rules, fits=_fits, inside=(WITHIN,))
