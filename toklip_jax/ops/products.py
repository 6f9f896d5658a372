"""Matrix products: of linear layers, of bfloat16 and float16, and of weights kept as int8.

In programs that are traced on a CPU, a linear layer's vectors stand on one axis (`_on_one_axis`).
On other platforms, for which it may be compiled, that is the same product.

On CPUs products of bfloat16 and float16 are summed, and handed on, in float32.

XLA on CPUs has fast products of bfloat16 with float32 results only: on processors that multiply
bfloat16 (AVX512-BF16, AMX), those with results in bfloat16 take 2.5 times as long. Elsewhere sums
are float32 within the matrix unit anyway.

Int8 weights have one scale for each output channel, so that the product is scaled, not the weights:
those are only cast, which compilers do while they read them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.export
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

FEW = 128  # vectors, up to which `table_products` puts the table first on CPUs


@runtime_checkable
class Quantised(Protocol):
    """An array as whole numbers times scales, such as `qwix.QArray`.

    Attributes:
        qvalue: int8, of the array's shape.
        scale: of as many axes, 1 along those that a product sums over.
    """

    qvalue: Any
    scale: Any

    def astype(self, dtype: Any) -> Any: ...


def dot_general(
    left: ArrayLike,
    right: ArrayLike | Quantised,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Returns `jax.lax.dot_general`, in the operands' type unless another is preferred.

    `nn.Dense` takes it as its `dot_general`.

    Args:
        right: may be quantised, with one scale for each output channel; it then has no axis of the
            batch.
    """
    if isinstance(right, Quantised):
        product = dot_general(
            left, right.qvalue.astype(left.dtype), dimension_numbers, precision, jnp.float32
        )
        summed = dimension_numbers[0][1]
        scaled = product * jnp.squeeze(right.scale.astype(jnp.float32), summed)
        return scaled.astype(preferred_element_type or left.dtype)

    def product(left, right, preferred):
        return jax.lax.dot_general(
            left, right, dimension_numbers, precision, preferred_element_type=preferred
        )

    if jax.default_backend() == "cpu" and _is_layer(left, dimension_numbers):
        product = functools.partial(_on_one_axis, dimension_numbers, precision)
    return _summed_in_float32(product, left, right, preferred_element_type)


def _is_layer(left, dimension_numbers) -> bool:
    """Whether vectors on several axes, [b, n, ..., *k], are multiplied with a kernel [*k, ...]."""
    (summed, of_kernel), batch = dimension_numbers
    num_axes = jnp.ndim(left) - len(summed)
    return (
        not any(batch)
        and num_axes > 1
        and tuple(summed) == tuple(range(num_axes, jnp.ndim(left)))
        and tuple(of_kernel) == tuple(range(len(summed)))
        # A mesh of explicit axes lets no axis be merged that is split over devices.
        and not any(jax.typeof(left).sharding.spec[1:num_axes])
    )


def _on_one_axis(dimension_numbers, precision, left, right, preferred):
    """A linear layer's product, computed with all vectors on one axis.

    With several axes of vectors, XLA on CPUs transposes them for the kernel's gradient, which then
    takes two to three times as long.
    """
    summed, of_kernel = dimension_numbers[0]
    shape, size = left.shape[: summed[0]], left.shape[summed[0] :]
    numbers = ((tuple(range(1, len(size) + 1)), of_kernel), ((), ()))
    vectors = left.reshape(math.prod(shape), *size)
    y = jax.lax.dot_general(vectors, right, numbers, precision, preferred_element_type=preferred)
    return y.reshape(*shape, *y.shape[1:])


def promote_to(*arrays: Any, dtype: Any) -> list[Any]:
    """Returns arrays in a type, as `nn.Dense` asks of its `promote_dtype`; None as it is.

    Unlike Flax's it takes quantised weights, which keep their whole numbers.
    """
    return [x if x is None or isinstance(x, Quantised) else jnp.asarray(x, dtype) for x in arrays]


def einsum(axes: str, left: ArrayLike, right: ArrayLike) -> jax.Array:
    """Returns `jnp.einsum` of two operands, in their type."""

    def product(left, right, preferred):
        return jnp.einsum(axes, left, right, preferred_element_type=preferred)

    return _summed_in_float32(product, left, right, None)


def table_products(x: Float[Array, "*b d"], table: Float[Array, "z d"]) -> Float[Array, "*b z"]:
    """Returns float32 products of vectors with every row of a table, such as a tied head's.

    On CPUs XLA copies the right operand of a product into blocks first. So a table stands on the
    left of a few vectors: with 8 of 1,024 and a table of 32,000 that takes 0.45 of the time.

    Args:
        x: vectors, of the table's type.
    """

    def plain(x, table):
        return jnp.einsum("...d,zd->...z", x, table, preferred_element_type=jnp.float32)

    def table_first(x, table):
        scores = jnp.einsum("zd,...d->z...", table, x, preferred_element_type=jnp.float32)
        # The compiler would put the operands back, to save the transposition.
        return jnp.moveaxis(jax.lax.optimization_barrier(scores), 0, -1)

    # A program for TPUs may be traced on a CPU; one that is traced elsewhere never runs on a CPU.
    if not has_few(x.shape[:-1]) or jax.default_backend() != "cpu":
        return plain(x, table)
    return jax.lax.platform_dependent(x, table, cpu=table_first, default=plain)


def has_few(shape: tuple[Any, ...]) -> bool:
    """Returns whether there are few vectors, but several, in an array of this shape of them."""
    # Of an exported program's symbolic rows nobody can say how many they are.
    is_fixed = not any(map(jax.export.is_symbolic_dim, shape))
    return is_fixed and 1 < math.prod(shape) <= FEW


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
