"""Activation functions by name: libraries disagree on what plain "gelu" means."""

import functools
from collections.abc import Callable

import jax

from toklip_jax.core.errors import UserError

ACTIVATIONS = {
    "gelu_erf": functools.partial(jax.nn.gelu, approximate=False),  # torch.nn.GELU()
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),  # GELU(approximate="tanh")
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,  # x * sigmoid(x), also called swish
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the elementwise function called `name`.

    Its backward pass stores only the input and recomputes the rest: `jax.nn.gelu` by itself would
    store five arrays of the input's size.

    Raises:
        ValueError: `name` is not in `ACTIVATIONS`.
    """
    return jax.checkpoint(_function(name))


def gated(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns (gate, x) -> activation(gate) * x, whose backward pass stores only its two inputs.

    Raises:
        ValueError: `name` is not in `ACTIVATIONS`.
    """
    function = _function(name)
    return jax.checkpoint(lambda gate, x: function(gate) * x)


def _function(name):
    if name not in ACTIVATIONS:
        raise UserError(f"expected an activation of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]
