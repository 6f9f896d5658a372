"""Activation functions by name: libraries disagree on what plain "gelu" means."""

import functools

import jax

ACTIVATIONS = {
    "gelu_erf": functools.partial(jax.nn.gelu, approximate=False),  # torch.nn.GELU()
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),  # GELU(approximate="tanh")
}


def activation(name: str):
    """Returns the elementwise function called `name`.

    Raises:
        ValueError: `name` is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]
