"""What the recordings of convolutional VQ tokenizers have in common, and how they are compared."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.stages import at, close, end_of_level, nhwc, run, stats_of
from toklip_jax.models.registry import build_model
from toklip_jax.nn.config import Compute

LEVEL_ATOL, ROW_ATOL = 1e-4, 1e-6  # as the recordings' README says


def images_of(pictures):
    """The images that were fed to PyTorch, computed in its order."""
    return (pictures.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def recording(golden, name):
    """(outputs, images, config) of a recorded set."""
    outputs = dict(np.load(golden(f"{name}/outputs.npz")))
    pictures = np.load(golden(f"{name}/inputs.npz"))["image_u8_nhwc"]
    return outputs, images_of(pictures), json.loads(golden(f"{name}/config.json").read_text())


def rows(array):
    """A map [b, c, h, w] of PyTorch's as rows [b, n, c]."""
    return nhwc(array).reshape(len(array), -1, array.shape[1])


def flat(ids):
    return ids.reshape(len(ids), -1)


def encoder_is_recorded(inner, want):
    """Every level, the middle, and both ends."""
    close(at(inner, "encoder"), nhwc(want["encoder_out"]))
    close(at(inner, "quant_conv"), nhwc(want["prequant"]))
    levels = sum(f"enc_level{i}_stats" in want for i in range(9))
    half_is_recorded(inner["encoder"], want, {i: f"enc_level{i}" for i in range(levels)}, "enc_mid")


def decoder_is_recorded(inner, want, counts_from_lowest=False):
    """Every level and the middle; PyTorch counts levels from the highest resolution, or not."""
    levels = sum(f"dec_up{i}_stats" in want for i in range(9))
    numbers = {i: i if counts_from_lowest else levels - 1 - i for i in range(levels)}
    names = {i: f"dec_up{number}" for i, number in numbers.items()}
    half_is_recorded(inner["decoder"], want, names, "dec_mid")


def half_is_recorded(half, want, names, middle):
    assert names  # else no level would be compared
    stages = {middle: "mid_res_1"}
    for i, name in names.items():
        stages[name] = end_of_level([n for n in half if n.startswith(f"levels_{i}_")], i)
    for name, path in stages.items():
        got = at(half, path)
        close(stats_of(got), want[f"{name}_stats"], LEVEL_ATOL)
        if name in want:  # of some, the first image alone
            close(got[: len(want[name])], nhwc(want[name]), LEVEL_ATOL)


def ties_are_decided_as_recorded(weights, images, want, tie_break):
    """A copy of a row changes nothing at a higher id, and wins at a lower one."""
    original = tie_break["original"]
    places = flat(want["indices"]) == original
    assert places.any()
    codebook = np.asarray(weights.params["codebook"], np.float32)
    for place, name in ((len(codebook) - 1, "with_copy_in_last_row"), (0, "with_copy_in_row_0")):
        copied = codebook.copy()
        copied[place] = codebook[original]
        changed = dataclasses.replace(weights, params=weights.params | {"codebook": copied})
        ids, _ = run(changed, images, "tokenize")
        assert set(np.asarray(ids)[places]) == {tie_break[name]}


def gradients_are_finite(weights, images):
    """Of images and losses, through one pass of training, and not all of them zero."""
    model = build_model(weights.config, Compute(is_scanned=False))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights.params)

    @jax.jit
    @jax.grad
    def gradient(params):
        variables = {"params": params}
        out = model.apply(variables, jnp.asarray(images))
        between = model.apply(variables, out.latents, method="between_rows")
        losses = sum(loss.mean() for loss in out.losses.values()) + sum(between.values())
        return losses + jnp.mean((out.images - images) ** 2)

    found = gradient(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    for part in ("encoder", "quant_conv", "codebook", "post_quant_conv", "decoder"):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found[part])) > 0, part
