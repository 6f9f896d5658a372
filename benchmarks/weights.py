"""Random weights of a size, as quick to make as memory is to fill."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def random_params(init: Callable[..., Any], *shapes: Any) -> dict[str, Any]:
    """Returns parameters as NumPy arrays, of the structure that `init(key, *shapes)` has.

    Kernels have a variance of 1 / fan-in, so that activations neither vanish nor grow; scales are
    near one and biases near zero, none equal, so that a swapped pair shows.
    """
    random = np.random.default_rng(0)

    def draw(path, leaf):
        values = random.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        if name == "scale":
            return 1 + 0.02 * values
        if name == "kernel":
            is_scanned = any(entry.key == "blocks" for entry in path)
            return values * _fan_in(path, leaf.shape[is_scanned:]) ** -0.5
        if name in ("logit_scale", "logit_bias"):
            return np.full(leaf.shape, 2.0, np.float32)
        return 0.02 * values

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0), *shapes))


def _fan_in(path, shape):
    """Input axes are all but the last; of a projection into heads, the first alone."""
    is_into_heads = path[-2].key in ("qkv", "kv") or (
        path[-2].key in ("q", "k", "v") and len(shape) == 3
    )
    return shape[0] if is_into_heads else np.prod(shape[:-1])
