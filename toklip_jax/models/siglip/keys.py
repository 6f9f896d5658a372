"""The names that SigLIP 2 has in open_clip's files: timm's image tower, open_clip's text tower."""

from collections.abc import Iterable
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import (
    HEADS_IN,
    HEADS_IN_BIAS,
    HEADS_OUT,
    PACKED_IN,
    PACKED_IN_BIAS,
    block_rules,
    conv_rules,
    linear_rules,
    norm_rules,
)
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import ForeignKeys, Hints, Tensors
from toklip_jax.models.siglip.big_vision import BIG_VISION
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.models.siglip.hugging_face import HUGGING_FACE
from toklip_jax.models.siglip.names import (
    IMAGE_TOWER,
    OPEN_CLIP_BLOCK,
    TEXT,
    TIMM,
    TIMM_BLOCK,
    TRUNK,
)
from toklip_jax.models.siglip.sizes import SIZES


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> TeacherConfig:
    """Returns the config of a SigLIP 2 checkpoint."""
    patch_size = shape_of(tensors, f"{prefix}{TRUNK}patch_embed.proj.weight", 4)[-1]
    named = fitting_size(tensors, SIZES.values(), prefix)
    size = patch_size * round(shape_of(tensors, f"{prefix}{TRUNK}pos_embed", 3)[1] ** 0.5)
    is_causal = bool(hints.is_causal)
    fields = {"image_size": size, "patch_size": patch_size, "is_causal": is_causal}
    vision = infer_vision(tensors, hints, named, prefix, **fields)
    text = infer_text(tensors, hints, named, prefix) if has_text(tensors, prefix) else None
    return TeacherConfig(vision, text, f"{prefix}logit_bias" in tensors)


def has_text(tensors: Tensors, prefix: str = "") -> bool:
    """Tells whether there is a text tower beside the image tower."""
    return any(name.startswith(f"{prefix}{TEXT}") for name in tensors)


def rules(config: TeacherConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map."""
    trunk, tower = f"{source}{TRUNK}", f"{target}image_tower"
    return [
        *conv_rules(f"{trunk}patch_embed.proj", f"{tower}/patch_embed"),
        *tower_rules(trunk, tower),
        *text_rules(source, target),
    ]


def tower_rules(trunk: str, target: str) -> list[Rule]:
    """Returns the map of what a teacher's image tower and a token encoder share."""
    pool = f"{trunk}attn_pool"
    return [
        Rule(f"{trunk}pos_embed", f"{target}/pos_embed", "1 n d -> n d"),
        *block_rules(f"{trunk}blocks.{{i}}", f"{target}/stack/blocks_{{i}}", TIMM_BLOCK),
        *norm_rules(f"{trunk}norm", f"{target}/norm"),
        Rule(f"{pool}.latent", f"{target}/pool/latent", "1 n d -> n d"),
        Rule(f"{pool}.q.weight", f"{target}/pool/q/kernel", HEADS_IN),
        Rule(f"{pool}.q.bias", f"{target}/pool/q/bias", HEADS_IN_BIAS),
        Rule(f"{pool}.kv.weight", f"{target}/pool/kv/kernel", PACKED_IN),
        Rule(f"{pool}.kv.bias", f"{target}/pool/kv/bias", PACKED_IN_BIAS),
        *linear_rules(f"{pool}.proj", f"{target}/pool/proj", HEADS_OUT),
        *norm_rules(f"{pool}.norm", f"{target}/pool/norm"),
        *linear_rules(f"{pool}.mlp.fc1", f"{target}/pool/mlp/fc1"),
        *linear_rules(f"{pool}.mlp.fc2", f"{target}/pool/mlp/fc2"),
    ]


def text_rules(source: str, target: str) -> list[Rule]:
    """Returns the map of the text tower, and of the scale and bias beside it."""
    text, tower = f"{source}{TEXT}", f"{target}text_tower"
    return [
        Rule(f"{text}token_embedding.weight", f"{tower}/token_embed"),
        Rule(f"{text}positional_embedding", f"{tower}/pos_embed"),
        *block_rules(
            f"{text}transformer.resblocks.{{i}}", f"{tower}/stack/blocks_{{i}}", OPEN_CLIP_BLOCK
        ),
        *norm_rules(f"{text}ln_final", f"{tower}/norm"),
        *linear_rules(f"{text}text_projection", f"{tower}/proj"),
        Rule(f"{source}logit_scale", f"{target}logit_scale"),
        Rule(f"{source}logit_bias", f"{target}logit_bias"),
    ]


def infer_vision(
    tensors: Tensors, hints: Hints, named: Any | None, prefix: str = "", **fields: Any
) -> VisionConfig:
    """Returns the config of the image tower; `named` is the size that fits, `fields` the rest."""
    trunk = f"{prefix}{TRUNK}"
    return VisionConfig(
        width=shape_of(tensors, trunk + "pos_embed", 3)[2],
        depth=count_layers(tensors, trunk + r"blocks\.(\d+)\."),
        num_heads=_num_heads(hints.num_heads, named and named.vision, "num_heads"),
        mlp_dim=shape_of(tensors, trunk + "blocks.0.mlp.fc1.weight", 2)[0],
        **fields,
    )


def infer_text(tensors: Tensors, hints: Hints, named: Any | None, prefix: str = "") -> TextConfig:
    """Returns the config of the text tower; `named` is the size that fits."""
    text = f"{prefix}{TEXT}"
    vocab_size, width = shape_of(tensors, text + "token_embedding.weight", 2)
    return TextConfig(
        width=width,
        depth=count_layers(tensors, text + r"transformer\.resblocks\.(\d+)\."),
        num_heads=_num_heads(hints.text_num_heads, named and named.text, "text_num_heads"),
        mlp_dim=shape_of(tensors, text + "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        vocab_size=vocab_size,
        context_length=shape_of(tensors, text + "positional_embedding", 2)[0],
        embed_dim=shape_of(tensors, text + "text_projection.weight", 2)[0],
        tokenizer=named.text.tokenizer if named and named.text.vocab_size == vocab_size else "",
    )


def fitting_size(tensors: Tensors, sizes: Iterable[Any], prefix: str = "") -> Any | None:
    """Returns the named size whose towers, those that are there, have these widths and depths."""
    trunk, text = f"{prefix}{TRUNK}", f"{prefix}{TEXT}"
    vision_size = (
        shape_of(tensors, trunk + "pos_embed", 3)[2],
        count_layers(tensors, trunk + r"blocks\.(\d+)\."),
    )
    text_size = has_text(tensors, prefix) and (
        shape_of(tensors, text + "token_embedding.weight", 2)[1],
        count_layers(tensors, text + r"transformer\.resblocks\.(\d+)\."),
    )
    for size in sizes:
        is_text = not text_size or (size.text.width, size.text.depth) == text_size
        if (size.vision.width, size.vision.depth) == vision_size and is_text:
            return size
    return None


def _num_heads(hint, named, field):
    if hint is not None:
        return hint
    if named is None:
        flag = field.replace("_", "-")
        raise UserError(
            f"expected a named size or {field}: shapes don't tell the number of attention heads. "
            f"Pass --{flag} (or {field}=...)"
        )
    return named.num_heads


KEYS = ForeignKeys(
    ("visual.trunk.patch_embed.proj.weight", "text.token_embedding.weight"),
    infer,
    rules,
    hints=("num_heads", "text_num_heads", "is_causal"),
    dialects=(HUGGING_FACE, BIG_VISION, TIMM, IMAGE_TOWER),
)
