"""The start of TokLIP's training: a SigLIP 2 teacher's towers on a VQ tokenizer."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.files import MappedFiles
from toklip_jax.models.base import place_size
from toklip_jax.models.registry import VQConfig, family_of
from toklip_jax.models.siglip.config import TeacherConfig, expect_text
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.keys import VQ
from toklip_jax.models.toklip.token_encoder import TokenEncoder
from toklip_jax.nn.config import Compute
from toklip_jax.ops.resample import resample_positions
from toklip_jax.weights.base import Weights

LEFT_OUT = ("patch_embed",)  # of the teacher's image tower: ids replace patches


class Start(NamedTuple):
    """TokLIP's weights before training, and a line for each part that says where it comes from."""

    weights: Weights
    report: list[str]


def start_toklip(teacher: Weights, vq: Weights, is_causal: bool = True, seed: int = 0) -> Start:
    """Joins a teacher and a VQ tokenizer.

    The token encoder takes the teacher's position table (resampled where the grids differ), blocks,
    norm and pool; its mapping MLP is new. Text tower and logit scale and bias are the teacher's.

    Raises:
        ValueError: other kinds of weights, or the VQ's down-sampling does not divide the images.
    """
    roles = family_of(teacher.config).role, family_of(vq.config).role
    if roles != ("teacher", "vq"):
        raise UserError(
            f"expected a SigLIP 2 teacher and a VQ tokenizer, got "
            f"{family_of(teacher.config).title} and {family_of(vq.config).title}"
        )
    config = start_config(teacher.config, vq.config, is_causal)
    tower = teacher.params["image_tower"]
    encoder = {name: value for name, value in tower.items() if name not in LEFT_OUT}
    encoder["pos_embed"] = _positions(
        tower["pos_embed"], config.vision.grid, teacher.config.vision.grid
    )
    encoder["mapping"] = _fresh_mapping(config, seed)
    rest = {name: value for name, value in teacher.params.items() if name != "image_tower"}
    params = {"vq": vq.params, "token_encoder": encoder, **rest}
    files = [weights.file for weights in (teacher, vq) if weights.file is not None]
    weights = Weights(
        config,
        params,
        is_scanned=teacher.is_scanned,
        carried={f"{VQ}{name}": value for name, value in vq.carried.items()},
        tokenizer_path=teacher.tokenizer_path,
        source=f"start from {teacher.source} and {vq.source}",
        file=MappedFiles(files[0].path, files) if files else None,
    )
    return Start(weights, _report(encoder, rest, tower, teacher, vq))


def start_config(teacher: TeacherConfig, vq: VQConfig, is_causal: bool) -> TokLIPConfig:
    """Returns the config of the TokLIP made of a teacher and a VQ tokenizer.

    Raises:
        ValueError: the VQ's grid doesn't fit the teacher's images, or its pooling; or the teacher
            has no text tower.
    """
    expect_text(teacher)
    vision = dataclasses.replace(teacher.vision, is_causal=is_causal, patch_size=place_size(vq))
    if vision.pool != "map" and vision.grid != teacher.vision.grid:
        raise UserError(
            f"expected a VQ tokenizer that gives the teacher's {teacher.vision.num_tokens} "
            f"tokens, which its pooling {vision.pool!r} is tied to, got one of {vision.num_tokens}"
        )
    return TokLIPConfig(vq, vision, teacher.text, teacher.has_logit_bias)


def _positions(table, grid, old_grid):
    table = np.asarray(table)
    if grid == old_grid:
        return table
    resampled = resample_positions(jax.numpy.asarray(table, np.float32), grid, old_grid)
    return np.asarray(resampled).astype(table.dtype)


def _fresh_mapping(config: TokLIPConfig, seed: int) -> dict[str, Any]:
    small = dataclasses.replace(config.vision, depth=1)
    encoder = TokenEncoder(small, Compute(is_scanned=False))
    codes = np.zeros((1, small.num_tokens, config.vq.code_dim), np.float32)
    params = encoder.init(jax.random.key(seed), jax.numpy.asarray(codes))["params"]
    return jax.tree.map(np.asarray, params["mapping"])


def _report(encoder, rest, tower, teacher, vq):
    taken = sorted(set(encoder) - {"mapping"})
    lines = [f"  token_encoder/{name}: taken from {teacher.source}" for name in taken]
    if len(tower["pos_embed"]) != len(encoder["pos_embed"]):
        lines.append("  token_encoder/pos_embed: resampled, the grids differ")
    lines += [f"  {name}: taken from {teacher.source}" for name in sorted(rest)]
    lines += [f"  vq: taken from {vq.source}", "  token_encoder/mapping: fresh"]
    lines += [f"  image_tower/{name} of {teacher.source}: not taken" for name in LEFT_OUT]
    return ["TokLIP starts from:", *lines]
