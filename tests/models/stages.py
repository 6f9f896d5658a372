"""Runs a model and its submodules, and compares their outputs with PyTorch's recordings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.models.registry import build_model
from toklip_jax.nn.config import Compute

PLAIN = Compute(is_scanned=False)
ATOL = 2e-5  # of what isn't said otherwise in the recordings' README


def close(got, want, atol=ATOL):
    """Compares with a recorded array, and reports the largest error that the test met."""
    got = np.asarray(got)
    assert got.shape == want.shape
    error = float(np.max(np.abs(got - want)))
    close.node.user_properties.append((f"largest error (bound {atol:g})", error))
    np.testing.assert_allclose(got, want, atol=atol, rtol=1e-5)


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def run(weights, inputs, method=None, *, compute=PLAIN, options=None, **changes):
    """Outputs and every submodule's output, by path.

    Args:
        options: the method's keyword arguments.
        **changes: to the config.
    """
    model = build_model(dataclasses.replace(weights.config, **changes), compute)
    params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32), weights.params)

    @jax.jit
    def apply(params, inputs):
        return model.apply(
            {"params": params},
            inputs,
            method=method,
            capture_intermediates=True,
            mutable=["intermediates"],
            **(options or {}),
        )

    out, state = apply(params, jnp.asarray(inputs))
    return out, state.get("intermediates", {})


def at(inner, path, index=0):
    for name in path.split("/"):
        inner = inner[name]
    out = inner["__call__"][index]
    return out[0] if isinstance(out, tuple) else out  # blocks give (output, cache)


def end_of_level(names, i):
    """The last submodule of level i of an encoder or a decoder."""
    for kind in ("downsample", "upsample"):
        if f"levels_{i}_{kind}" in names:
            return f"levels_{i}_{kind}"
    attention = [n for n in names if "_attn_" in n]
    return max(attention or [n for n in names if "_res_" in n], key=lambda n: int(n.split("_")[-1]))


def stats_of(rows):
    """Mean, unbiased standard deviation, least and greatest number of each row, as of an image."""
    got = np.asarray(rows)
    axes = tuple(range(1, got.ndim))
    return np.stack([got.mean(axes), got.std(axes, ddof=1), got.min(axes), got.max(axes)], 1)
