"""Activation functions by name: libraries disagree on what plain "gelu" means."""

import functools

import jax

ACTIVATIONS = {
    "gelu_erf": functools.partial(jax.nn.gelu, approximate=False),  # torch.nn.GELU()
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),  # GELU(approximate="tanh")
}


def activation(name: str):
    """Returns the elementwise function called `name`.

    Of it, the backward pass keeps the input alone and does the rest again: `jax.nn.gelu` by itself
    would keep five arrays of the input's size.

    Raises:
        ValueError: `name` is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {sorted(ACTIVATIONS)}, got {name!r}")
    return jax.checkpoint(ACTIVATIONS[name])
