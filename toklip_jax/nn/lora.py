"""LoRA (arXiv 2106.09685): linear layers with an addition of low rank beside their kernels.

y = x W + scale (x A) B. A starts at random and B at zero, so that training starts from W alone.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp

from toklip_jax.nn.layers import Projection
from toklip_jax.ops.products import dot_general

DOWN, UP = "lora_down", "lora_up"  # A, [inputs, rank], and B, [rank, outputs]


@contextlib.contextmanager
def adapted(rank: int, scale: float) -> Iterator[None]:
    """Within it, every linear layer that is called has LoRA's addition.

    The layers have the parameters `lora_down` and `lora_up` then, beside `kernel`; scanned,
    unrolled and rematerialised blocks alike. Heads that are no layers, such as a language model's
    embedding and head, have none.

    Args:
        rank: of the additions; 0 changes nothing.
        scale: multiplies them.
    """
    if not rank:
        yield
        return

    def add(call, args, kwargs, context):
        layer, y = context.module, call(*args, **kwargs)
        is_linear = isinstance(layer, nn.Dense | Projection)
        if context.method_name != "__call__" or not is_linear:
            return y
        return y + (scale * _addition(layer, args[0], rank, y)).astype(y.dtype)

    with nn.intercept_methods(add):
        yield


def merged(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Returns parameters with LoRA's additions in the kernels; layers may be stacked or not."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    found = {}
    for path, value in flat.items():
        module, _, name = path.rpartition("/")
        if name in (DOWN, UP):
            continue
        if name == "kernel" and f"{module}/{DOWN}" in flat:
            down, up = (jnp.asarray(flat[f"{module}/{x}"], jnp.float32) for x in (DOWN, UP))
            addition = jnp.matmul(down, up, precision="highest")  # [..., inputs, outputs]
            total = jnp.asarray(value, jnp.float32) + scale * addition.reshape(value.shape)
            value = total.astype(value.dtype)
        found[path] = value
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _addition(layer, x, rank, y):
    """(x A) B of a layer's input, in the shape of its output."""
    ndim = len(layer.in_shape) if isinstance(layer, Projection) else 1
    lead = x.shape[: x.ndim - ndim]
    x = x.reshape(*lead, math.prod(x.shape[x.ndim - ndim :])).astype(y.dtype)
    down = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's, of Linear
    outputs = math.prod(y.shape[len(lead) :])
    a = layer.param(DOWN, down, (x.shape[-1], rank), jnp.float32).astype(y.dtype)
    b = layer.param(UP, nn.initializers.zeros, (rank, outputs), jnp.float32).astype(y.dtype)
    axes = (((x.ndim - 1,), (0,)), ((), ()))
    return dot_general(dot_general(x, a, axes), b, axes).reshape(y.shape)
