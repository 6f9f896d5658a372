"""The VQ tokenizer as a part of weights: joined to TokLIP's, told apart, and described."""

import dataclasses
import math
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.files import MappedFiles
from toklip_jax.models.registry import VQConfig, family_of, recognise
from toklip_jax.models.toklip.keys import VQ, holds_vq
from toklip_jax.weights.base import Weights
from toklip_jax.weights.checkpoint_file import Checkpoint
from toklip_jax.weights.checks import naming
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.fingerprints import fingerprint_params


def join_vq(checkpoint: Checkpoint, vq: Weights) -> Checkpoint:
    """Returns a checkpoint of TokLIP with the VQ tokenizer that it lacks, under TokLIP's names.

    Raises:
        ValueError: the checkpoint is not TokLIP's, or holds a VQ tokenizer already, or `vq` is
            none.
    """
    path = checkpoint.file.path
    if family_of(vq.config).role != "vq":
        raise UserError(f"expected a VQ tokenizer to join, got {family_of(vq.config).title}")
    with naming(path):
        family = recognise(checkpoint.tensors).family
    if family.role != "toklip":
        raise UserError(
            f"expected weights of TokLIP to join a VQ tokenizer to, got those of {family.title} in "
            f"{path}: leave --vq out"
        )
    if holds_vq(checkpoint.tensors):
        raise UserError(
            f"expected a TokLIP without its VQ tokenizer in {path}, got one that holds it: leave "
            f"--vq out"
        )
    tensors = {f"{VQ}{name}": x for name, x in export_tensors(vq).items()}
    files = [checkpoint.file] if vq.file is None else [checkpoint.file, vq.file]
    taken = filter(None, (checkpoint.taken, f"VQ tokenizer: {vq.source}"))
    return dataclasses.replace(
        checkpoint,
        file=MappedFiles(path, files),
        tensors={**checkpoint.tensors, **tensors},
        taken="; ".join(taken),
    )


def expect_joined(weights: Weights, vq: VQConfig) -> None:
    """Checks that TokLIP's weights hold the VQ tokenizer that was joined to them.

    Raises:
        ValueError: their names and shapes, by which it is told within TokLIP, tell another one.
    """
    found = weights.config.vq
    if found == vq:
        return
    names = [field.name for field in dataclasses.fields(vq)]
    got = ", ".join(
        f"{name}={getattr(vq, name)!r}"
        for name in names
        if getattr(vq, name) != getattr(found, name, None)
    )
    raise UserError(
        f"expected a VQ tokenizer that names and shapes tell within TokLIP, got {got or vq}, which "
        f"would be read as another one, of other ids"
    )


def vq_of(weights: Weights) -> tuple[VQConfig, dict[str, Any]] | None:
    """Returns the config and parameters of the VQ tokenizer in weights, or None without one."""
    role = family_of(weights.config).role
    if role == "vq":
        return weights.config, weights.params
    return (weights.config.vq, weights.params["vq"]) if role == "toklip" else None


def describe_vq(weights: Weights) -> list[str]:
    """Returns lines on the VQ tokenizer in weights: codes, grid, rate, licence and hash.

    The hash is that of `fingerprint_params`: the same weights give the same, whatever file they are
    in, alone or within TokLIP. It reads all of the tokenizer's parameters.
    """
    found = vq_of(weights)
    if found is None:
        return []
    config, params = found
    size = weights.config.vision.size if config is not weights.config else _usual_size(config)
    grid = config.grid_of(*size)
    bits = math.prod(grid) * sum(map(math.log2, config.codebook_sizes))
    return [
        f"VQ tokenizer: {family_of(config).title}",
        f"codes: {_codes(config)}, of {config.code_dim} numbers",
        f"grid: {_times(grid)}, of images of {_times(size)} px",
        f"rate: {bits / math.prod(size):.4g} bits a pixel, {bits:,.0f} bits an image",
        f"licence of the published weights: {config.licence or 'not stated with them'}",
        f"VQ hash: {fingerprint_params(params)}",
    ]


def _usual_size(config):
    """The size nearest to that of the published weights' images that has a grid.

    A tokenizer that takes one size alone has no larger one than its smallest.
    """
    pixels = family_of(config).image_size
    *frames, height, width = config.smallest_size
    size = *frames, *(max(round(pixels / side), 1) * side for side in (height, width))
    try:
        config.grid_of(*size)
    except ValueError:
        return config.smallest_size
    return size


def _codes(config):
    sizes = config.codebook_sizes
    if len(sizes) == 1:
        return f"{sizes[0]:,}"
    if len(set(sizes)) == 1:
        return f"{len(sizes)} of {sizes[0]:,} a place"
    return " and ".join(f"{size:,}" for size in sizes) + " a place"


def _times(sides):
    return " x ".join(map(str, sides))
