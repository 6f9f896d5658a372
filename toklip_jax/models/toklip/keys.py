"""The names of TokLIP's files: timm's and open_clip's, with the VQ tokenizer's own within them."""

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import linear_rules
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import shape_of
from toklip_jax.models.base import (
    ForeignKeys,
    Hints,
    Tensors,
    find_family,
    keys_of,
    place_size,
)
from toklip_jax.models.siglip import keys as siglip
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.sizes import SIZES
from toklip_jax.ops.grids import square_grid

VQ = f"{siglip.TRUNK}vq."  # what the names of the VQ tokenizer's tensors begin with
VQ_HINTS = ("is_l2_normalised",)  # those of `Hints` that are the VQ tokenizer's


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> TokLIPConfig:
    """Returns the config of a TokLIP checkpoint, whichever VQ tokenizer it holds."""
    if not holds_vq(tensors, prefix):
        raise UserError(
            f"expected TokLIP's VQ tokenizer among the tensors, as {prefix}{VQ}*, found none: it "
            f"is in a file of its own; `python -m toklip_jax.convert to-jax FILE OUT --vq=VQ_FILE` "
            f"joins the two"
        )
    family = find_family(tensors, prefix + VQ, "vq", hints.family)
    family.keys.expect_used(hints, family.title, VQ_HINTS)
    vq = family.keys.infer(tensors, hints, prefix + VQ)
    named = siglip.fitting_size(tensors, SIZES.values(), prefix)
    patch_size = place_size(vq)
    grid = square_grid(shape_of(tensors, f"{prefix}{siglip.TRUNK}pos_embed", 3)[1])
    vision = siglip.infer_vision(
        tensors,
        hints,
        named,
        prefix,
        is_causal=True if hints.is_causal is None else hints.is_causal,
        image_size=tuple(g * p for g, p in zip(grid, patch_size, strict=True)),
        patch_size=patch_size,
    )
    text = siglip.infer_text(tensors, hints, named, prefix)
    return TokLIPConfig(vq, vision, text, f"{prefix}logit_bias" in tensors)


def rules(config: TokLIPConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map."""
    trunk, encoder = f"{source}{siglip.TRUNK}", f"{target}token_encoder"
    return [
        *keys_of(config.vq).rules(config.vq, source + VQ, f"{target}vq/"),
        *linear_rules(f"{trunk}vq_table", f"{encoder}/mapping/fc1"),
        *linear_rules(f"{trunk}vq_mapping", f"{encoder}/mapping/fc2"),
        *siglip.tower_rules(trunk, encoder),
        *siglip.text_rules(source, target),
    ]


def holds_vq(tensors: Tensors, prefix: str = "") -> bool:
    """Tells whether the VQ tokenizer is among TokLIP's tensors, and not in a file of its own."""
    return any(name.startswith(prefix + VQ) for name in tensors)


KEYS = ForeignKeys(
    ("visual.trunk.vq_table.weight", "visual.trunk.vq_mapping.weight"),
    infer,
    rules,
    hints=("num_heads", "text_num_heads", "is_causal", *VQ_HINTS),
)
