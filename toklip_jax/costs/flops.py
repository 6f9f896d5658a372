"""Counts the FLOPs of a function by walking its jaxpr: XLA counts the body of a loop only once.

Only matrix products and convolutions count, two FLOPs for each multiply-add: the model FLOPs that
papers divide by a chip's peak. Rematerialised operations are in the jaxpr of a gradient and are
counted; to count the model's own, trace one without rematerialisation.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *args: Any, float32_passes: float = 1.0) -> int:
    """Returns the FLOPs of `function(*args)`, over all devices of its mesh.

    A loop counts times its length where that is known when tracing (`scan`, and what is made of
    it), else once; of a conditional's branches the most expensive counts. Attention counts in full,
    causal or not. A convolution's border counts as if the padding were pixels.

    Args:
        args: arrays or `jax.ShapeDtypeStruct`s.
        float32_passes: weight of float32 products at highest precision, each of which a chip
            computes as several bfloat16 products (`chips.Chip`); 1 counts the mathematics.
    """
    return round(_count(jax.make_jaxpr(function)(*args).jaxpr, float32_passes))


def _count(jaxpr, passes):
    return sum(_count_equation(equation, passes) for equation in jaxpr.eqns)


def _count_equation(equation, passes):
    name, params = equation.primitive.name, equation.params
    if name in PRODUCTS:
        flops = PRODUCTS[name](equation)
        return flops * passes if _is_exact(equation) else flops
    inner = [_count(jaxpr, passes) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return _repeats(name, params) * sum(inner)


def _repeats(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # its jaxpr is one device's part
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def _inner(value: Any) -> Iterator[core.Jaxpr]:
    """The jaxprs among an equation's parameters."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inner(item)


def _is_exact(equation: core.JaxprEqn) -> bool:
    precision = equation.params["precision"]
    first = precision[0] if isinstance(precision, tuple) else precision
    is_float32 = equation.invars[0].aval.dtype == "float32"
    return is_float32 and first == jax.lax.Precision.HIGHEST


def _dot(equation: core.JaxprEqn) -> int:
    """2 x results x summed-over length."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)


def _conv(equation: core.JaxprEqn) -> int:
    """2 x results x kernel's taps x its input channels; zeros between dilated inputs are free."""
    kernel = equation.invars[1].aval.shape
    _, channels, *taps = equation.params["dimension_numbers"].rhs_spec
    summed = kernel[channels] * math.prod(kernel[i] for i in taps)
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * equation.outvars[0].aval.size * summed // dilation


PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _conv}
