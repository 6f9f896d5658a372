"""Sizes of a model from the shapes of its tensors, and from a named size what shapes can't tell."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from toklip_jax.models.config import TextConfig, VisionConfig
from toklip_jax.models.inception import InceptionConfig
from toklip_jax.models.sizes import TEACHER_SIZES, TOKLIP_SIZES
from toklip_jax.models.teacher import TeacherConfig
from toklip_jax.models.toklip import TokLIPConfig
from toklip_jax.models.vq import LlamaGenConfig

Tensors = Mapping[str, np.ndarray]
TRUNK, TEXT = "visual.trunk.", "text."
FID_CLASSES = 1008  # of the graph "inception-2015-12-05"; torchvision's has 1000
FID_STEM_WIDTH = 32
FID_FILE = "pt_inception-2015-12-05-6726825d.pth of github.com/mseitzer/pytorch-fid"


@dataclasses.dataclass(frozen=True)
class Hints:
    """What shapes can't tell; None takes it from the named size that fits.

    Attributes:
        is_l2_normalised: of the VQ's codebook; True in all released LlamaGen tokenizers.
    """

    num_heads: int | None = None
    text_num_heads: int | None = None
    is_causal: bool | None = None
    is_l2_normalised: bool = True


def infer_vq(tensors: Tensors, hints: Hints, prefix: str = "") -> LlamaGenConfig:
    """Returns the config of a LlamaGen VQ tokenizer under a name prefix."""
    encoder = prefix + "encoder."
    conv_in = _shape(tensors, encoder + "conv_in.weight")
    codebook = _shape(tensors, prefix + "quantize.embedding.weight")
    levels = _count(tensors, encoder + r"conv_blocks\.(\d+)\.")
    widths = [
        _shape(tensors, f"{encoder}conv_blocks.{i}.res.0.conv1.weight")[0] for i in range(levels)
    ]
    return LlamaGenConfig(
        codebook_size=codebook[0],
        codebook_dim=codebook[1],
        is_l2_normalised=hints.is_l2_normalised,
        channels=conv_in[0],
        multipliers=tuple(width // conv_in[0] for width in widths),
        num_res_blocks=_count(tensors, encoder + r"conv_blocks\.0\.res\.(\d+)\."),
        z_channels=_shape(tensors, encoder + "conv_out.weight")[0],
        stem_patch=round((conv_in[1] / 3) ** 0.5),
    )


def infer_toklip(tensors: Tensors, hints: Hints) -> TokLIPConfig:
    """Returns the config of a TokLIP checkpoint."""
    vq = infer_vq(tensors, hints, TRUNK + "vq.")
    named = _fitting(tensors, TOKLIP_SIZES)
    vision = _vision(tensors, hints, named, patch_size=vq.downsample, is_causal=True)
    return TokLIPConfig(vq, vision, _text(tensors, hints, named), "logit_bias" in tensors)


def infer_teacher(tensors: Tensors, hints: Hints) -> TeacherConfig:
    """Returns the config of a SigLIP 2 checkpoint."""
    patch_size = _shape(tensors, TRUNK + "patch_embed.proj.weight")[-1]
    named = _fitting(tensors, TEACHER_SIZES)
    vision = _vision(tensors, hints, named, patch_size, is_causal=False)
    return TeacherConfig(vision, _text(tensors, hints, named), "logit_bias" in tensors)


def infer_inception(tensors: Tensors, hints: Hints) -> InceptionConfig:
    """Returns the config of FID's Inception; only the divisor of its widths may differ.

    Raises:
        ValueError: another Inception v3, such as torchvision's, which has the same names.
    """
    classes = _shape(tensors, "fc.weight")[0]
    if classes != FID_CLASSES or any(name.startswith("AuxLogits.") for name in tensors):
        raise ValueError(
            f"expected FID's Inception v3, whose fc has {FID_CLASSES} classes, got another with "
            f"{classes}: its features would not compare; fetch {FID_FILE}"
        )
    width = _shape(tensors, "Conv2d_1a_3x3.conv.weight")[0]
    return InceptionConfig(divisor=max(FID_STEM_WIDTH // max(width, 1), 1))


def _vision(tensors, hints, named, patch_size, is_causal):
    n, width = _shape(tensors, TRUNK + "pos_embed")[1:]
    return VisionConfig(
        width=width,
        depth=_count(tensors, TRUNK + r"blocks\.(\d+)\."),
        num_heads=_heads(hints.num_heads, named and named.vision, "num_heads"),
        mlp_dim=_shape(tensors, TRUNK + "blocks.0.mlp.fc1.weight")[0],
        is_causal=is_causal if hints.is_causal is None else hints.is_causal,
        image_size=patch_size * round(n**0.5),
        patch_size=patch_size,
    )


def _text(tensors, hints, named):
    vocab_size, width = _shape(tensors, TEXT + "token_embedding.weight")
    return TextConfig(
        width=width,
        depth=_count(tensors, TEXT + r"transformer\.resblocks\.(\d+)\."),
        num_heads=_heads(hints.text_num_heads, named and named.text, "text_num_heads"),
        mlp_dim=_shape(tensors, TEXT + "transformer.resblocks.0.mlp.c_fc.weight")[0],
        vocab_size=vocab_size,
        context_length=_shape(tensors, TEXT + "positional_embedding")[0],
        embed_dim=_shape(tensors, TEXT + "text_projection.weight")[0],
        tokenizer=named.text.tokenizer if named else "",
    )


def _fitting(tensors, sizes) -> Any:
    """Returns the named size whose towers have these widths and depths, or None."""
    vision = (
        _shape(tensors, TRUNK + "pos_embed")[2],
        _count(tensors, TRUNK + r"blocks\.(\d+)\."),
    )
    text = (
        _shape(tensors, TEXT + "token_embedding.weight")[1],
        _count(tensors, TEXT + r"transformer\.resblocks\.(\d+)\."),
    )
    for size in sizes.values():
        towers = (size.vision.width, size.vision.depth), (size.text.width, size.text.depth)
        if towers == (vision, text):
            return size
    return None


def _heads(hint, named, field):
    if hint is not None:
        return hint
    if named is None:
        flag = field.replace("_", "-")
        raise ValueError(
            f"expected a named size or {field}: shapes don't tell the number of attention heads. "
            f"Pass --{flag} (or {field}=...)"
        )
    return named.num_heads


def _shape(tensors, name):
    if name not in tensors:
        raise ValueError(
            f"expected a tensor called {name}, found none: the checkpoint lacks a part"
        )
    return tensors[name].shape


def _count(tensors, pattern):
    """One more than the largest number the pattern captures."""
    found = [int(m[1]) for name in tensors if (m := re.match(pattern, name))]
    if not found:
        raise ValueError(f"expected tensors called {pattern}, found none: no such layers")
    return max(found) + 1
