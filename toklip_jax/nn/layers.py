"""The linear layers of a transformer: MLPs, and projections to and from heads.

XLA on CPUs copies a product's right operand into blocks, which takes as long as the product itself
where few vectors are multiplied. A loop that draws one id after another may therefore pass the
kernels transposed as well, in the collection `TRANSPOSED`; they then stand on the left.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.ops.activations import activation, gated
from toklip_jax.ops.products import (
    Quantised,
    dot_general,
    has_few,
    promote_to,
    table_products,
)
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

TRANSPOSED = "transposed"  # kernels [n, k], which `apply(..., mutable=[TRANSPOSED])` gives


class Mlp(nn.Module):
    """fc2(activation(fc1(x))), or fc2(activation(gate(x)) * fc1(x)) if gated.

    Attributes:
        init_std: standard deviation of the kernels' initial values; 0 means Xavier's uniform.
    """

    hidden_dim: int
    out_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    is_gated: bool = False
    has_bias: bool = True
    init_std: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"]) -> Float[Array, "b *n d"]:
        hidden = self._hidden(x, "fc1")
        if self.is_gated:
            hidden = gated(self.activation)(self._hidden(x, "gate"), hidden)
        else:
            hidden = activation(self.activation)(hidden)
        return self._linear(hidden, self.out_dim, "fc2")

    def _hidden(self, x, name):
        x = self._linear(x, self.hidden_dim, name)
        return constrain(x, BATCH_AXES, *(None,) * (x.ndim - 2), "tensor")

    def _linear(self, x, features, name):
        options = {"has_bias": self.has_bias, "init_std": self.init_std, "name": name}
        dtype = jnp.dtype(self.dtype)
        return Projection((x.shape[-1],), (features,), dtype, **options)(x)


class Projection(nn.Module):
    """A linear layer whose input or output is split into axes, such as heads.

    It stands in for `nn.DenseGeneral`, which flattens its kernel to initialise it: sharding by axis
    can't follow that.

    Attributes:
        init_std: standard deviation of the kernel's initial values; 0 means Xavier's uniform.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32
    has_bias: bool = True
    init_std: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        ndim = len(self.in_shape)
        shape = self.in_shape + self.out_shape
        kernel = self.param("kernel", self._init(), shape, jnp.float32)
        (kernel,) = promote_to(kernel, dtype=self.dtype)
        y = product_of_few(self, "kernel", kernel, x, self.in_shape)
        if y is None:
            axes = tuple(range(x.ndim - ndim, x.ndim)), tuple(range(ndim))
            y = dot_general(x.astype(self.dtype), kernel, (axes, ((), ())))
        if not self.has_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, self.out_shape, jnp.float32)
        return y + bias.astype(self.dtype)

    def _init(self):
        if self.init_std:
            return nn.initializers.normal(self.init_std)
        ndim = len(self.in_shape)
        axes = tuple(range(ndim)), tuple(range(ndim, ndim + len(self.out_shape)))
        return nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", *axes)


def product_of_few(
    module: nn.Module, name: str, kernel: Any, x: Float[Array, "..."], in_shape: tuple[int, ...]
) -> Float[Array, "..."] | None:
    """Returns the product of few vectors with a kernel that the module has transposed, or None.

    Where the collection `TRANSPOSED` is mutable, it stores the transposed kernel there.

    Args:
        name: that of the kernel among the module's parameters.
        kernel: [*in_shape, *out_shape], in the type of the product.
        x: vectors [..., *in_shape].

    Returns:
        [..., *out_shape], float32; None unless there are few vectors and a transposed kernel.
    """
    inner, ndim = math.prod(in_shape), len(in_shape)
    is_asked = module.is_mutable_collection(TRANSPOSED) and not module.is_initializing()
    if is_asked and not isinstance(kernel, Quantised):
        module.put_variable(TRANSPOSED, name, kernel.reshape(inner, -1).T)
    vectors = x.shape[: x.ndim - ndim]
    if not module.has_variable(TRANSPOSED, name) or not has_few(vectors):
        return None
    table = module.get_variable(TRANSPOSED, name)
    y = table_products(x.astype(kernel.dtype).reshape(*vectors, inner), table)
    return y.reshape(*vectors, *kernel.shape[ndim:])


def shard_heads(x: Float[Array, "b n k e"]) -> Float[Array, "b n k e"]:
    """Puts the batch over `data` and `fsdp`, and the heads over `tensor`."""
    return constrain(x, BATCH_AXES, None, "tensor", None)
