"""Matrix products in bfloat16 and float16: on CPUs they are summed, and handed on, in float32.

XLA on CPUs has fast products of bfloat16 with float32 results only: on processors that multiply
bfloat16 (AVX512-BF16, AMX), those with results in bfloat16 take 2.5 times as long. Elsewhere sums
are float32 within the matrix unit anyway.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def dot_general(
    left: ArrayLike,
    right: ArrayLike,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Returns `jax.lax.dot_general`, in the operands' type unless another is preferred.

    `nn.Dense` takes it as its `dot_general`.
    """

    def product(left, right, preferred):
        return jax.lax.dot_general(
            left, right, dimension_numbers, precision, preferred_element_type=preferred
        )

    return _summed_in_float32(product, left, right, preferred_element_type)


def einsum(axes: str, left: ArrayLike, right: ArrayLike) -> jax.Array:
    """Returns `jnp.einsum` of two operands, in their type."""

    def product(left, right, preferred):
        return jnp.einsum(axes, left, right, preferred_element_type=preferred)

    return _summed_in_float32(product, left, right, None)


def _summed_in_float32(
    product: Callable, left: ArrayLike, right: ArrayLike, preferred: Any
) -> jax.Array:
    """Returns `product(left, right, preferred)`, on CPUs by way of float32 where that helps."""
    dtype = jnp.result_type(left, right)
    is_narrow = jnp.finfo(dtype).bits < 32 and preferred is None
    # A program for TPUs may be traced on a CPU; one that is traced elsewhere never runs on a CPU.
    if not is_narrow or jax.default_backend() != "cpu":
        return product(left, right, preferred)
    return jax.lax.platform_dependent(
        left,
        right,
        cpu=lambda left, right: product(left, right, jnp.float32).astype(dtype),
        default=lambda left, right: product(left, right, preferred),
    )
