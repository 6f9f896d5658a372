"""The kinds of checkpoints known: how to tell one, size it, and map it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from toklip_jax.convert import infer, maps
from toklip_jax.convert.infer import Hints
from toklip_jax.convert.reader import Checkpoint
from toklip_jax.convert.rules import Rule, match, to_jax, to_torch
from toklip_jax.files import AnyLazy
from toklip_jax.models.build import param_shapes
from toklip_jax.models.inception import InceptionConfig
from toklip_jax.models.teacher import TeacherConfig
from toklip_jax.models.toklip import TokLIPConfig
from toklip_jax.models.vq import LlamaGenConfig
from toklip_jax.weights import Weights


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
        title: for people.
        marks: names that only this family's files hold.
        infer: tensors and hints to the model's config.
        rules: its map.
        config_type: of the model's config.
    """

    title: str
    marks: tuple[str, ...]
    infer: Callable[[Mapping[str, np.ndarray], Hints], Any]
    rules: Sequence[Rule]
    config_type: type


FAMILIES = {
    "toklip": Family(
        "TokLIP",
        ("visual.trunk.vq_table.weight", "visual.trunk.vq_mapping.weight"),
        infer.infer_toklip,
        maps.TOKLIP,
        TokLIPConfig,
    ),
    "siglip2": Family(
        "SigLIP 2 in open_clip's and timm's names",
        ("visual.trunk.patch_embed.proj.weight", "text.token_embedding.weight"),
        infer.infer_teacher,
        maps.TEACHER,
        TeacherConfig,
    ),
    "llamagen": Family(
        "LlamaGen's VQ tokenizer",
        ("quantize.embedding.weight", "encoder.conv_in.weight"),
        infer.infer_vq,
        maps.LLAMAGEN,
        LlamaGenConfig,
    ),
    "inception": Family(
        "FID's Inception v3 in pytorch-fid's names",
        ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"),
        infer.infer_inception,
        maps.INCEPTION,
        InceptionConfig,
    ),
}


def find_family(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the family of named tensors.

    Raises:
        ValueError: none; says which there are and what the names look like.
    """
    for name, family in FAMILIES.items():
        if all(mark in tensors for mark in family.marks):
            return name
    known = ", ".join(family.title for family in FAMILIES.values())
    some = ", ".join(list(tensors)[:4])
    raise ValueError(f"expected weights of {known}, got tensors called {some}, ...")


def convert_checkpoint(checkpoint: Checkpoint, hints: Hints) -> Weights:
    """Returns a checkpoint's weights, layers unrolled: views of the file where possible.

    Raises:
        ValueError: an unknown family, sizes that can't be told, or keys that don't fit.
    """
    family = FAMILIES[find_family(checkpoint.tensors)]
    config = family.infer(checkpoint.tensors, hints)
    flat, carried = to_jax(checkpoint.tensors, family.rules, param_shapes(config))
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return Weights(
        config,
        params,
        is_scanned=False,
        carried=carried,
        source=f"{family.title}, {checkpoint.file.path.name}",
        file=checkpoint.file,
    )


def carried_reason(name: str) -> str:
    """Returns why a map carries a tensor along instead of taking it as a parameter."""
    rules = (match(name, family.rules)[0] for family in FAMILIES.values())
    return next(rule.reason for rule in rules if rule is not None)


def export_tensors(weights: Weights) -> dict[str, AnyLazy]:
    """Returns PyTorch's tensors of weights; undoes `convert_checkpoint` to the bit.

    They are made one by one, as they are looked at.
    """
    rules = next(f.rules for f in FAMILIES.values() if isinstance(weights.config, f.config_type))
    params = weights.with_layout(False).params
    return to_torch(flax.traverse_util.flatten_dict(params, sep="/"), rules, weights.carried)
