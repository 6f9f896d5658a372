"""Converts between the layouts of a stack: `blocks_{i}`, or `blocks` with a leading layer axis."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Params = dict[str, Any]


def to_scanned(params: Params, stack: Callable = np.stack) -> Params:
    """Returns parameters with every run of `blocks_0`, `blocks_1`, ... stacked into `blocks`.

    Args:
        stack: turns a list of the layers' leaves into one leaf.
    """
    out, layers = {}, {}
    for name, value in params.items():
        if found := re.fullmatch(r"blocks_(\d+)", name):
            layers[int(found[1])] = value
        else:
            out[name] = to_scanned(value, stack) if isinstance(value, dict) else value
    if layers:
        trees = [layers[i] for i in range(len(layers))]
        out["blocks"] = jax.tree.map(lambda *leaves: stack(leaves), *trees)
    return out


def to_unrolled(params: Params, take: Callable = lambda leaf, i: leaf[i]) -> Params:
    """Undoes `to_scanned`.

    Args:
        take: returns the i-th layer's leaf of a stacked one.
    """
    out = {}
    for name, value in params.items():
        if name == "blocks":
            depth = len(jax.tree.leaves(value)[0])
            for i in range(depth):
                out[f"blocks_{i}"] = jax.tree.map(lambda leaf, i=i: take(leaf, i), value)
        else:
            out[name] = to_unrolled(value, take) if isinstance(value, dict) else value
    return out
